package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// updating is a stream pushed to the first destination of numbered.
type updating struct {
	t    *testing.T
	got  *received
	p    *forward.Publisher
	f    *forward.Forwarder
	told *[]string // the destinations that OnForward reported as publishing

	dialed *[]net.Conn
}

func newUpdating(t *testing.T) updating {
	dest, got := watch(t)
	dial := dialTo(dest)
	told, dialed := new([]string), new([]net.Conn)
	hooks := forward.Hooks{OnForward: func(f *forward.Forwarder, s forward.State, _ error) {
		if s == forward.StatePublishing {
			*told = append(*told, f.Destination().URL)
		}
	}}
	s := newServer(t, forward.Config{MergeWindow: -1, Hooks: hooks, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "down:1935" {
			return nil, errors.New("connection refused")
		}
		nc, err := dial(ctx, network, addr)
		*dialed = append(*dialed, nc)
		return nc, err
	}})
	p := publish(t, s, "live", canary)
	f, err := p.Source().Forward(numbered(0, 1)[0])
	require.NoError(t, err)
	synctest.Wait()
	return updating{t, got, p, f, told, dialed}
}

// update replaces the destination by d. The channel receives the result.
func (u updating) update(ctx context.Context, d forward.Destination) (result chan error) {
	result = make(chan error, 1)
	go func() { result <- u.f.Update(ctx, d) }()
	synctest.Wait()
	return result
}

func TestUpdateSwitchesAtKeyframe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpdating(t)
		begin(t, u.p)
		feed(t, u.p, 0, 15)
		first := u.f.ID()
		result := u.update(t.Context(), numbered(1, 2)[0])
		require.Empty(t, result, "no keyframe yet")
		feed(t, u.p, 15, 19)
		require.Equal(t, numbered(0, 1)[0].URL, u.f.Destination().URL)
		require.Equal(t, first, u.f.ID())

		feed(t, u.p, 19, 35)
		require.NoError(t, <-result)
		synctest.Wait()
		require.Equal(t, []*forward.Forwarder{u.f}, u.p.Source().Forwarders())
		require.Equal(t, numbered(1, 2)[0].URL, u.f.Destination().URL)
		require.NotEqual(t, first, u.f.ID())
		require.Contains(t, fmt.Sprint(u.f), u.f.Destination().String())
		require.Equal(t, []string{numbered(0, 1)[0].URL, numbered(1, 2)[0].URL}, *u.told)
		frames, _, ended := u.got.of("00")
		require.Equal(t, sequence(0, 20), frames)
		require.True(t, ended)
		frames, before, ended := u.got.of("01")
		require.Equal(t, sequence(20, 35), frames)
		require.Len(t, before, 2, "metadata and sequence header")
		require.False(t, ended)
		st := u.f.Stats()
		require.EqualValues(t, 2, st.Connects)
		require.EqualValues(t, 2, st.Accepted)
		require.EqualValues(t, 35+2, st.Messages, "with metadata and sequence header of the stream")

		// And once more.
		result = u.update(t.Context(), numbered(2, 3)[0])
		feed(t, u.p, 35, 45)
		require.NoError(t, <-result)
		frames, _, _ = u.got.of("01")
		require.Equal(t, sequence(20, 40), frames)
		frames, _, _ = u.got.of("02")
		require.Equal(t, sequence(40, 45), frames)
	})
}

// A stream with intra refresh has one keyframe and no other. The switch does not wait for a
// keyframe until the new destination closes its connection for lack of media. The new
// destination begins like any late receiver.
func TestUpdateWithoutAKeyframe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpdating(t)
		begin(t, u.p)
		n := 0
		inter := func(d time.Duration) {
			for until := n + int(d/(40*time.Millisecond)); n < until; n++ {
				require.NoError(t, u.p.WriteTag(forward.TagVideo, uint32(n*40), rtmptest.Frame(n == 0, n)))
				time.Sleep(40 * time.Millisecond)
			}
			synctest.Wait()
		}
		inter(20 * time.Second)
		for i := range 2 { // the second time from a destination that has begun like this
			at := n
			result := u.update(t.Context(), numbered(i+1, i+2)[0])
			inter(9 * time.Second)
			require.Empty(t, result, "a keyframe may come")
			inter(2 * time.Second)
			require.NoError(t, <-result)
			old, _, ended := u.got.of(fmt.Sprintf("%02d", i))
			require.True(t, ended)
			require.Equal(t, sequence(0, len(old)), old)
			require.InDelta(t, at+10*25, len(old), 5)
			frames, before, _ := u.got.of(fmt.Sprintf("%02d", i+1))
			require.Len(t, before, 2, "metadata and sequence header")
			require.Equal(t, sequence(0, n), frames)
		}
	})
}

// If the Update fails, the old destination continues where it has stopped, even without a
// keyframe.
func TestUpdateThatFailsWithoutAKeyframe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpdating(t)
		begin(t, u.p)
		inter := func(from, to int) {
			for n := from; n < to; n++ {
				require.NoError(t, u.p.WriteTag(forward.TagVideo, uint32(n*40), rtmptest.Frame(n == 0, n)))
				time.Sleep(40 * time.Millisecond)
			}
			synctest.Wait()
		}
		inter(0, 25)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		result := u.update(ctx, numbered(1, 2)[0])
		inter(25, 100)
		cancel()
		require.ErrorIs(t, <-result, context.Canceled)
		inter(100, 60*25)
		frames, _, ended := u.got.of("00")
		require.False(t, ended)
		require.Equal(t, sequence(0, 60*25), frames)
	})
}

// If every frame is a keyframe, the log drops each frame with the next one.
func TestUpdateOfIntraStreamLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpdating(t)
		n := 0
		for i := range 20 {
			result := u.update(t.Context(), numbered(i+1, i+2)[0])
			for len(result) == 0 {
				require.NoError(t, u.p.WriteTag(forward.TagVideo, uint32(n*40), rtmptest.Frame(true, n)))
				if n++; n%100 == 0 {
					synctest.Wait() // no receiver falls behind the log
				}
			}
			require.NoError(t, <-result)
		}
		synctest.Wait()
		var all []int
		for _, d := range numbered(0, 21) {
			frames, _, _ := u.got.of(d.URL[len(d.URL)-2:])
			all = append(all, frames...)
		}
		require.Equal(t, sequence(0, n), all)
	})
}

// Over TCP, where the appending goroutine sends, frames do not wait for the update.
func TestUpdateOverTCPLosesNothing(t *testing.T) {
	dest, got := watch(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go dest.Serve(l)
	s := newServer(t, forward.Config{MergeWindow: -1})
	p := publish(t, s, "live", canary)
	url := func(i int) forward.Destination {
		return forward.Destination{URL: fmt.Sprintf("rtmp://%s/live/%02d", l.Addr(), i)}
	}
	f, err := p.Source().Forward(url(0))
	require.NoError(t, err)

	const updates = 20
	var all []int
	collect := func() []int {
		all = all[:0]
		for i := range updates + 1 {
			frames, _, _ := got.of(fmt.Sprintf("%02d", i))
			all = append(all, frames...)
		}
		return all
	}
	n := 0
	write := func() {
		require.NoError(t, p.WriteTag(forward.TagVideo, uint32(n*40), rtmptest.Frame(n%3 == 0, n)))
		n++
	}
	arrived := func() {
		require.Eventually(t, func() bool { return len(collect()) >= n }, 10*time.Second, 100*time.Microsecond)
	}
	require.Eventually(t, func() bool { return f.Stats().State == forward.StatePublishing }, 10*time.Second, time.Millisecond)
	write()
	arrived()
	for i := range updates {
		done := make(chan error, 1)
		go func() { done <- f.Update(context.Background(), url(i+1)) }()
		for len(done) == 0 {
			write()
			arrived()
		}
		require.NoError(t, <-done)
	}
	require.Equal(t, sequence(0, n), collect())
}

func TestUpdateOfAudioSwitchesAtAnyMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpdating(t)
		write := func(n byte) {
			require.NoError(t, u.p.WriteTag(forward.TagAudio, uint32(n)*20, []byte{0x2f, n}))
			synctest.Wait()
		}
		for n := range byte(5) {
			write(n)
		}
		result := u.update(t.Context(), numbered(1, 2)[0])
		write(5)
		require.NoError(t, <-result)
		write(6)
		audio := func(stream string) (n []byte) {
			u.got.mu.Lock()
			defer u.got.mu.Unlock()
			for _, m := range u.got.messages[stream] {
				n = append(n, m.Payload[1])
			}
			return n
		}
		require.Equal(t, []byte{0, 1, 2, 3, 4, 5, 6}, slices.Concat(audio("00"), audio("01")))
	})
}

func TestUpdateThatFailsChangesNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		url  string
		err  string
	}{
		{"no connection", "rtmp://down/live/x", "connection refused"},
		{"refused", numbered(0, 1)[0].URL, "NetStream.Publish.BadName"},
		{"no URL", "nonsense", "no URL"},
		{"no time", "rtmp://dest/live/x", "context canceled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpdating(t)
				begin(t, u.p)
				feed(t, u.p, 0, 15)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				result := u.update(ctx, forward.Destination{URL: tt.url})
				time.Sleep(2 * busyGrace)
				cancel() // before the next keyframe
				require.ErrorContains(t, <-result, tt.err)
				feed(t, u.p, 15, 40)
				require.Equal(t, []*forward.Forwarder{u.f}, u.p.Source().Forwarders())
				require.Equal(t, numbered(0, 1)[0].URL, u.f.Destination().URL)
				frames, _, _ := u.got.of("00")
				require.Equal(t, sequence(0, 40), frames)
				require.EqualValues(t, 1, u.f.Stats().Accepted)
				require.NoError(t, u.f.Stats().LastErr)

				// A later update succeeds.
				result = u.update(t.Context(), numbered(1, 2)[0])
				feed(t, u.p, 40, 45)
				require.NoError(t, <-result)
			})
		})
	}
}

// After a failed Update, the next publish of the stream still waits for the Forwarder:
// the destination would refuse a second publisher.
func TestUpdateThatFailsKeepsTheTurn(t *testing.T) {
	inBubble(t, forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary)}, func(b *bubble) {
		d := b.Destination("a:1935",
			forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Rate: 20_000}}},
			forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Refuse: "NetStream.Publish.BadName"}}})
		pub := b.Publish("live/s")
		b.Published(d, 1)
		old := b.Server.Source("live/s").Forwarders()[0]
		dst := old.Destination()
		dst.FlashVer = "another"
		require.ErrorContains(b, old.Update(b.Ctx, dst), "BadName")

		require.NoError(b, pub.Send(b.Ctx, steady.Messages(2*time.Second), 0))
		require.NoError(b, pub.Unpublish())
		b.Publish("live/s")
		require.Equal(b, forward.StateDraining, old.Stats().State)
		b.Published(d, 3)
		require.Equal(b, forward.StateClosed, old.Stats().State, "the next publish has not waited")
	})
}

func TestUpdateOfAnUnconnectedForwarder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpdating(t)
		down, err := u.p.Source().Forward(forward.Destination{URL: "rtmp://down/live/x"})
		require.NoError(t, err)
		begin(t, u.p)
		feed(t, u.p, 0, 15)
		require.NoError(t, down.Update(t.Context(), numbered(1, 2)[0]))
		require.Equal(t, forward.StatePublishing, down.Stats().State)
		feed(t, u.p, 15, 16)
		frames, _, _ := u.got.of("01")
		require.Equal(t, sequence(10, 16), frames)
	})
}

func TestUpdateWhileItWaits(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(u updating)
		err  error
		next []int // what the new destination receives
	}{
		{"old destination lost", func(u updating) {
			(*u.dialed)[0].Close()
		}, nil, sequence(10, 16)},
		{"forwarder closed", func(u updating) { u.f.Shutdown(context.Background()) }, forward.ErrUpdating, nil},
		{"stream ended", func(u updating) { u.p.Close() }, forward.ErrStreamEnded, nil},
		{"updated again", func(u updating) {
			require.ErrorIs(u.t, u.f.Update(context.Background(), numbered(2, 3)[0]), forward.ErrUpdating)
			feed(u.t, u.p, 15, 20)
			require.NoError(u.t, u.p.WriteTag(forward.TagVideo, 800, rtmptest.Frame(true, 20)))
		}, nil, []int{20, 15}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpdating(t)
				begin(t, u.p)
				feed(t, u.p, 0, 15)
				result := u.update(t.Context(), numbered(1, 2)[0])
				tt.do(u)
				require.ErrorIs(t, <-result, tt.err)
				if u.p.WriteTag(forward.TagVideo, 600, rtmptest.Frame(false, 15)) == nil {
					synctest.Wait()
				}
				frames, _, _ := u.got.of("01")
				require.Equal(t, tt.next, frames)
				time.Sleep(time.Minute)
			})
		})
	}
}

// A panic in a connection of the host is a loss like any other: the counters stay, and an
// Update does not wait for the connection.
func TestPanicOfTheConnectionToADestination(t *testing.T) {
	inBubble(t, forward.Config{}, func(b *bubble) {
		first, second := b.Destination("a:1935"), b.Destination("b:1935")
		pub := b.Publish("live/x")
		var conns []*panickingConn
		f, err := b.Server.Source("live/x").Forward(forward.Destination{
			URL: "rtmp://a/live", StreamKey: canary,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				nc, err := b.Net.Dial(ctx, network, addr)
				conns = append(conns, &panickingConn{Conn: nc})
				return conns[len(conns)-1], err
			},
		})
		require.NoError(b, err)
		session := b.Published(first, 1)
		require.NoError(b, pub.Send(b.Ctx, steady.Messages(2*time.Second), 1))
		before := f.Stats()

		conns[0].armed.Store(true)
		require.NoError(b, session.Status("NetStream.Any", "something to read"))
		synctest.Wait()
		after := f.Stats()
		require.ErrorContains(b, after.LastErr, "panicked")
		require.GreaterOrEqual(b, after.Messages, before.Messages)
		began := time.Now()
		require.NoError(b, f.Update(b.Ctx, forward.Destination{URL: "rtmp://b/live", StreamKey: canary}))
		require.Zero(b, time.Since(began))
		b.Published(second, 1)
		require.GreaterOrEqual(b, f.Stats().Messages, before.Messages)
	})
}
