package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

func numbered(from, to int) (ds []forward.Destination) {
	for i := from; i < to; i++ {
		ds = append(ds, forward.Destination{URL: fmt.Sprintf("rtmp://dest/live/"+canary+"%02d", i)})
	}
	return ds
}

// urls are the URLs of the forwarders, without the canary.
func urls(fs []*forward.Forwarder) (urls []string) {
	for _, f := range fs {
		urls = append(urls, strings.ReplaceAll(f.Destination().URL, canary, ""))
	}
	slices.Sort(urls)
	return urls
}

// received records each stream of a destination server, without the canary in its name.
type received struct {
	mu       sync.Mutex
	messages map[string][]forward.Message
	ended    map[string]bool
	wg       sync.WaitGroup
}

// watch reads every stream published to the server of the returned Config.
func watch(t *testing.T) (*forward.Server, *received) {
	r := &received{messages: make(map[string][]forward.Message), ended: make(map[string]bool)}
	t.Cleanup(r.wg.Wait) // after the server is closed and starts no more streams
	s := newServer(t, forward.Config{MergeWindow: -1, Hooks: forward.Hooks{
		OnSource: func(src *forward.Source) {
			name := strings.ReplaceAll(src.Request().Stream, canary, "")
			sub := src.Subscribe(context.Background())
			r.wg.Go(func() {
				defer sub.Close()
				for {
					m, err := sub.Next()
					r.mu.Lock()
					if err != nil {
						r.ended[name] = true
						r.mu.Unlock()
						return
					}
					r.messages[name] = append(r.messages[name], m)
					r.mu.Unlock()
				}
			})
		}}})
	return s, r
}

// of returns the numbers of a stream's frames, the messages before the first one, and
// whether it has ended.
func (r *received) of(stream string) (frames []int, before []forward.Message, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.messages[stream] {
		if m.Type == forward.TagVideo && m.Payload[1] == 1 {
			frames = append(frames, int(m.Payload[5])<<16|int(m.Payload[6])<<8|int(m.Payload[7]))
		} else if len(frames) == 0 {
			before = append(before, m)
		}
	}
	return frames, before, r.ended[stream]
}

// feed publishes frames first to last-1, 40 ms apart, every tenth a keyframe.
func feed(t *testing.T, p *forward.Publisher, first, last int) {
	for n := first; n < last; n++ {
		require.NoError(t, p.WriteTag(forward.TagVideo, uint32(n*40), rtmptest.Frame(n%10 == 0, n)))
		time.Sleep(40 * time.Millisecond)
	}
	synctest.Wait()
}

func begin(t *testing.T, p *forward.Publisher) {
	require.NoError(t, p.WriteTag(forward.TagData, 0, rtmptest.Metadata))
	require.NoError(t, p.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader))
}

func sequence(from, to int) (s []int) {
	for i := from; i < to; i++ {
		s = append(s, i)
	}
	return s
}

// Of 20 destinations 10 are replaced: the others get every frame, new ones start with
// headers and a keyframe, old ones are told of the end.
func TestRefreshTouchesOnlyWhatDiffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dest, got := watch(t)
		r := &fakeResolver{Dests: numbered(0, 20)}
		s := newServer(t, forward.Config{Resolver: r, Dial: dialTo(dest), MergeWindow: -1})
		p := publish(t, s, "live", canary)
		byHand, err := p.Source().Forward(forward.Destination{URL: "rtmp://dest/live/by-hand"})
		require.NoError(t, err)
		synctest.Wait()
		begin(t, p)
		feed(t, p, 0, 15)
		kept := p.Source().Forwarders()[10:]

		r.Set(func(r *fakeResolver) { r.Dests = numbered(10, 30) })
		require.NoError(t, p.Source().Refresh(t.Context()))
		synctest.Wait()
		require.Equal(t, 1, r.Marked)
		feed(t, p, 15, 40)
		now := p.Source().Forwarders()
		require.Len(t, now, 21)
		require.Subset(t, now, kept, "the very same forwarders")
		require.Contains(t, now, byHand)
		for i := range 30 {
			frames, before, ended := got.of(fmt.Sprintf("%02d", i))
			switch {
			case i < 10:
				require.Equal(t, sequence(0, 15), frames, i)
				require.True(t, ended)
				require.Nil(t, dest.Source(fmt.Sprintf("live/%02d", i)))
			case i < 20:
				require.Equal(t, sequence(0, 40), frames, i)
				require.False(t, ended)
			default:
				require.Equal(t, sequence(10, 40), frames, i)
				require.Len(t, before, 2)
				require.Equal(t, rtmptest.VideoHeader, before[1].Payload)
			}
		}
		for _, f := range kept {
			require.Equal(t, uint64(1), f.Stats().Connects)
		}

		r.Set(func(r *fakeResolver) { r.Dests = nil })
		require.NoError(t, p.Source().Refresh(t.Context()))
		synctest.Wait()
		require.Equal(t, []*forward.Forwarder{byHand}, p.Source().Forwarders())
	})
}

func TestRefreshOfOptionsReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dest, _ := watch(t)
		one := numbered(0, 1)
		r := &fakeResolver{Dests: append(one, one...)}
		s := newServer(t, forward.Config{Resolver: r, Dial: dialTo(dest), MergeWindow: -1})
		p := publish(t, s, "live", canary)
		synctest.Wait()
		old := p.Source().Forwarders()
		require.Len(t, old, 1, "the same destination counts once")

		r.Set(func(r *fakeResolver) { r.Dests[0].NoMetadata = true; r.Dests = r.Dests[:1] })
		require.NoError(t, p.Source().Refresh(t.Context()))
		synctest.Wait()
		now := p.Source().Forwarders()
		require.Len(t, now, 1)
		require.NotSame(t, old[0], now[0])
		st := now[0].Stats()
		require.Equal(t, forward.StatePublishing, st.State)
		require.Equal(t, uint64(1), st.Connects, "not refused for the old one's sake")

		// A destination that the host has added itself is not added again.
		byHand, err := p.Source().Forward(numbered(1, 2)[0])
		require.NoError(t, err)
		r.Set(func(r *fakeResolver) { r.Dests = append(r.Dests, numbered(1, 2)...) })
		require.NoError(t, p.Source().Refresh(t.Context()))
		require.Equal(t, append(now, byHand), p.Source().Forwarders())
	})
}

func TestRefreshThatFailsChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dest, _ := watch(t)
		r := &fakeResolver{Dests: numbered(0, 3)}
		s := newServer(t, forward.Config{Resolver: r, Dial: dialTo(dest)})
		p := publish(t, s, "live", canary)
		synctest.Wait()
		before := p.Source().Forwarders()

		broken := errors.New("no answer")
		r.Set(func(r *fakeResolver) { r.Dests, r.Err = nil, broken })
		err := p.Source().Refresh(t.Context())
		require.ErrorIs(t, err, broken)
		require.NotContains(t, err.Error(), canary)
		require.Equal(t, before, p.Source().Forwarders())

		// One refresh at a time, and none outlives its stream.
		r.Set(func(r *fakeResolver) { r.Hang = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, p.Source().Refresh(ctx), context.DeadlineExceeded)
		errs := make(chan error, 2)
		asked := r.Count()
		for range 2 {
			go func() { errs <- p.Source().Refresh(context.Background()) }()
		}
		synctest.Wait()
		require.Equal(t, asked+1, r.Count())
		p.Close()
		for range 2 {
			require.ErrorIs(t, <-errs, forward.ErrStreamEnded)
		}
		<-p.Source().Done()
		require.ErrorIs(t, p.Source().Refresh(t.Context()), forward.ErrStreamEnded)
	})
}

func TestAutomaticRefresh(t *testing.T) {
	const second, minute, hour = time.Second, time.Minute, time.Hour
	for _, tt := range []struct {
		name          string
		interval, ttl time.Duration
		after         time.Duration
		min, max      int // calls in that time, without the first
	}{
		{"never", 0, 0, 1000 * hour, 0, 0},
		{"never, said so", -1, 0, 1000 * hour, 0, 0},
		{"interval", 10 * second, 0, 110 * second, 9, 11},
		{"ttl", 0, 10 * second, 110 * second, 9, 11},
		{"ttl is shorter", minute, 10 * second, 110 * second, 9, 11},
		{"interval is shorter", 10 * second, minute, 110 * second, 9, 11},
		{"a ttl too short", 0, 1, 110 * second, 99, 110},
		{"only a ttl", -1, 10 * second, 110 * second, 9, 11},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &fakeResolver{TTL: tt.ttl}
				s := newServer(t, forward.Config{Resolver: r, RefreshInterval: tt.interval})
				p := publish(t, s, "live", canary)
				time.Sleep(tt.after + time.Nanosecond)
				synctest.Wait()
				asked := r.Count() - 1
				require.GreaterOrEqual(t, asked, tt.min)
				require.LessOrEqual(t, asked, tt.max)
				p.Close()
				<-p.Source().Done()
				time.Sleep(hour)
				require.Equal(t, asked+1, r.Count(), "asked about a stream that has ended")
			})
		})
	}
}

func TestRefreshTriesAgainAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dest, _ := watch(t)
		r := &fakeResolver{TTL: time.Hour}
		var warned atomic.Int64
		s := newServer(t, forward.Config{Resolver: r, Dial: dialTo(dest), Logger: logtest.Count(&warned, slog.LevelWarn, "")})
		p := publish(t, s, "live", canary)
		r.Set(func(r *fakeResolver) { r.Err = errors.New("no answer") })
		time.Sleep(70 * time.Minute)
		require.GreaterOrEqual(t, r.Count(), 4)
		require.Equal(t, int64(1), warned.Load())
		r.Set(func(r *fakeResolver) { r.Err, r.Dests = nil, numbered(0, 1) })
		time.Sleep(70 * time.Second)
		require.Equal(t, []string{"rtmp://dest/live/00"}, urls(p.Source().Forwarders()))
	})
}

// The destinations' view: of 20, 10 are replaced by a refresh.
func TestRefreshAsTheDestinationsSeeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network forwardtest.Network
		var dests []*forwardtest.Destination
		var all []forward.Destination
		for i := range 30 {
			addr := fmt.Sprintf("d%02d:1935", i)
			dests = append(dests, network.NewDestination(addr))
			all = append(all, forward.Destination{URL: "rtmp://" + addr + "/live/key"})
		}
		r := &fakeResolver{Dests: all[:20]}
		s := newServer(t, forward.Config{Resolver: r, Dial: network.Dial})
		pub, err := forwardtest.Client{Dial: forwardtest.Direct(s)}.Publish(t.Context())
		require.NoError(t, err)
		media := forwardtest.Media{KeyframeInterval: time.Second}
		const length = 4 * time.Second
		total := -3 // without metadata and the two sequence headers
		for range media.Messages(length) {
			total++
		}
		synctest.Wait() // all destinations are publishing

		sent := make(chan error, 1)
		go func() { sent <- pub.Send(t.Context(), media.Messages(length), 1) }()
		time.Sleep(2500 * time.Millisecond)
		r.Set(func(r *fakeResolver) { r.Dests = all[10:] })
		require.NoError(t, s.Source("live/stream").Refresh(t.Context()))
		require.NoError(t, <-sent)
		require.NoError(t, pub.Unpublish())
		time.Sleep(time.Second)
		synctest.Wait()

		for i, d := range dests {
			sessions := d.Sessions()
			require.Len(t, sessions, 1, i)
			rec := sessions[0].Recorder()
			rec.Check(t) // headers and a keyframe first, and no gap
			rep := rec.Report()
			var commands []string
			for _, c := range sessions[0].Commands() {
				commands = append(commands, c.Name)
			}
			require.Equal(t, []string{"FCUnpublish", "deleteStream"}, commands[len(commands)-2:], i)
			switch {
			case i < 10:
				require.Less(t, rep.Frames, total*3/4, i)
				require.Equal(t, uint64(1), rep.First, i)
			case i < 20:
				require.Equal(t, total, rep.Frames, i)
			default:
				require.Equal(t, 2, rep.Keyframes, "those at 2 s and at 3 s")
				require.Less(t, rep.Frames, total*3/4, i)
			}
		}
		for _, d := range dests {
			d.Close()
		}
	})
}
