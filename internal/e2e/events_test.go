package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// reader collects events until they end.
type reader struct {
	t    *testing.T
	done chan struct{}
	all  []forward.Event
}

func readEvents(ctx context.Context, t *testing.T, s *forward.Server) *reader {
	r := &reader{t: t, done: make(chan struct{})}
	events := s.Events(ctx)
	go func() {
		defer close(r.done)
		for ev := range events {
			r.all = append(r.all, ev)
		}
	}()
	return r
}

// lines returns the events as text.
func (r *reader) lines() (out []string) {
	synctest.Wait()
	for _, ev := range r.all {
		line := string(ev.Kind)
		if ev.State != "" {
			line += " " + string(ev.State)
		}
		if ev.Reason != "" {
			line += " " + string(ev.Reason)
		}
		var err *forward.DestinationError
		if errors.As(ev.Err, &err) {
			line += " " + string(err.Op)
		}
		if !ev.Retry.IsZero() {
			line += fmt.Sprint(" in ", ev.Retry.Sub(ev.Time))
		}
		if ev.Count > 0 {
			line += " some"
		}
		out = append(out, line)
		secretscan.Check(r.t.Name(), fmt.Sprintf("%v %+v", ev, ev))
	}
	return out
}

// The destination refuses three times, accepts, reads nothing for 5 s, and closes.
func TestEvents(t *testing.T) {
	cfg := forward.Config{
		MergeWindow: -1, WriteTimeout: time.Minute, MaxLatency: 4 * time.Second,
		Backoff: forward.Backoff{Min: time.Second, Max: time.Second, RefusedMin: time.Second, RefusedMax: time.Second},
	}
	inBubble(t, cfg, func(b *bubble) {
		r := readEvents(b.Ctx, t, b.Server)
		refuses := forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Refuse: "NetStream.Publish.BadName"}}}
		b.Destination("a:1935", refuses, refuses, refuses, forwardtest.Script{At: map[int]func(*forwardtest.Session){
			200: func(*forwardtest.Session) { time.Sleep(8 * time.Second) },
			600: func(s *forwardtest.Session) { s.Close() },
		}}, forwardtest.Script{})
		player := b.Play("live/s")
		p := b.Publish("live/s")
		sent := make(chan error, 1)
		go func() { sent <- p.Send(b.Ctx, forwardtest.Media{}.Messages(30*time.Second), 1) }()
		synctest.Wait()
		_, err := b.Server.Source("live/s").Forward(forward.Destination{URL: "rtmp://a/live/x?key=" + canary})
		require.NoError(t, err)
		require.NoError(t, <-sent)
		require.NoError(t, p.Unpublish())
		synctest.Wait()
		player.Close()
		attempt := []string{"destination connecting", "destination handshaking"}
		refused := append(attempt, "retry publish in 1s", "destination waiting publish")
		want := []string{"play", "publish", "live"}
		for range 3 {
			want = append(want, refused...)
		}
		want = append(append(want, attempt...), "destination publishing", "first_keyframe", "destination stalled", "destination publishing", "dropped some",
			"retry read in 1s", "destination waiting read", "destination connecting", "destination handshaking", "destination publishing", "first_keyframe",
			"destination draining", "destination closed", "unpublish unpublish", "stop")
		require.Equal(t, want, clean(r.lines()))
		for i, ev := range r.all {
			require.EqualValues(t, i+1, ev.Seq)
			text, err := json.Marshal(ev)
			require.NoError(t, err)
			require.NotContains(t, string(text), canary)
			if strings.HasPrefix(string(ev.Kind), "destination") {
				require.Equal(t, "rtmp://a/live/***", strings.Split(ev.Destination, "?")[0])
			}
		}
	})
}

// clean removes the random part of delays.
func clean(lines []string) (out []string) {
	for _, l := range lines {
		at := strings.Index(l, " in ")
		if at >= 0 {
			l = l[:at] + " in 1s"
		}
		out = append(out, l)
	}
	return out
}

// askingError is an error of a host whose method Error calls the Server.
type askingError struct{ ask func() }

func (e askingError) Error() string { e.ask(); return "no route" }

// The method Error of a host's error is the host's code: it may call the Server.
func TestEventsCallNoHostUnderLock(t *testing.T) {
	var asks func()
	cfg := forward.Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, askingError{func() { asks() }}
	}}
	inBubble(t, cfg, func(b *bubble) {
		r := readEvents(b.Ctx, t, b.Server)
		p := b.PublishInProcess("s")
		asks = func() {
			for _, f := range p.Source().Forwarders() {
				f.Stats()
			}
		}
		_, err := p.Source().Forward(forward.Destination{URL: "rtmp://a/live/x"})
		require.NoError(t, err)
		require.Contains(t, strings.Join(r.lines(), "\n"), "destination waiting dial")
		for _, ev := range r.all {
			if ev.State == forward.StateWaiting {
				require.Contains(t, ev.Cause, "no route")
			}
		}
	})
}

// Each end of a stream has its reason.
func TestEventReasons(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  forward.Config
		do   func(b *bubble, p *forwardtest.Publisher)
		want []string
	}{
		{"unpublish", forward.Config{}, func(b *bubble, p *forwardtest.Publisher) { require.NoError(b, p.Unpublish()) }, []string{"unpublish unpublish"}},
		{"lost", forward.Config{}, func(_ *bubble, p *forwardtest.Publisher) { p.Reset() }, []string{"unpublish lost"}},
		{"silent", forward.Config{ReadTimeout: 10 * time.Second}, func(*bubble, *forwardtest.Publisher) { time.Sleep(time.Minute) }, []string{"unpublish timeout"}},
		{"closed", forward.Config{}, func(b *bubble, _ *forwardtest.Publisher) { b.Server.Source("live/s").Close() }, []string{"unpublish kicked"}},
		{"shutdown", forward.Config{}, func(b *bubble, _ *forwardtest.Publisher) { b.Server.Shutdown(b.Ctx) }, []string{"unpublish shutdown"}},
		{"grace", forward.Config{PublishGrace: 5 * time.Second}, func(_ *bubble, p *forwardtest.Publisher) { p.Reset(); time.Sleep(time.Minute) },
			[]string{"publisher_lost lost", "unpublish lost"}},
		{"grace, another", forward.Config{PublishGrace: 5 * time.Second}, func(b *bubble, p *forwardtest.Publisher) {
			p.Reset()
			synctest.Wait()
			b.PublishFor("live/s", forwardtest.Media{}, time.Second)
			time.Sleep(time.Minute)
		}, []string{"publisher_lost lost", "publisher", "unpublish unpublish"}},
		{"takeover", forward.Config{Takeover: true}, func(b *bubble, _ *forwardtest.Publisher) {
			b.PublishFor("live/s", forwardtest.Media{}, time.Second)
		}, []string{"publisher", "unpublish unpublish"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, c.cfg, func(b *bubble) {
				r := readEvents(b.Ctx, t, b.Server)
				p := b.Publish("live/s")
				require.NoError(t, p.Send(b.Ctx, forwardtest.Media{}.Messages(time.Second), 1))
				synctest.Wait()
				c.do(b, p)
				require.Equal(t, append([]string{"publish", "live"}, c.want...), r.lines())
			})
		})
	}
}

// A resolver that fails is one event until it answers again.
func TestEventsOfResolver(t *testing.T) {
	var fails atomic.Pointer[error]
	cfg := forward.Config{RefreshInterval: 10 * time.Second, Resolver: forward.ResolverFunc(
		func(context.Context, *forward.Request) ([]forward.Destination, error) {
			if err := fails.Load(); err != nil {
				return nil, *err
			}
			return nil, nil
		})}
	inBubble(t, cfg, func(b *bubble) {
		r := readEvents(b.Ctx, t, b.Server)
		p := b.Publish("live/s")
		go p.Send(b.Ctx, forwardtest.Media{}.Messages(10*time.Minute), 1)
		synctest.Wait()
		refused := errors.New("connection refused")
		fails.Store(&refused)
		time.Sleep(time.Minute)
		fails.Store(nil)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"publish", "live", "resolver_failing", "resolver_well"}, r.lines())
		require.Equal(t, "connection refused", r.all[2].Cause)
	})
}

// A reader that does not read misses the oldest events and is told how many. Others
// get all of them. A reader ends with its context, with its loop, and with the Server.
func TestEventReaders(t *testing.T) {
	inBubble(t, forward.Config{}, func(b *bubble) {
		ctx, cancel := context.WithCancel(b.Ctx)
		defer cancel()
		hangs := b.Server.Events(b.Ctx)
		r := readEvents(b.Ctx, t, b.Server)
		cancelled := readEvents(ctx, t, b.Server)
		never := b.Server.Events(ctx)
		const streams = 600 // publish, live, unpublish
		for i := range streams {
			if i == 1 {
				synctest.Wait()
				cancel()
				<-cancelled.done
			}
			b.PublishFor(fmt.Sprint("live/", i), forwardtest.Media{}, 0)
		}
		lines := r.lines()
		require.Equal(t, r.all[len(r.all)-1].Seq, uint64(len(lines)))
		require.Greater(t, len(lines), 1100)
		require.NotEmpty(t, cancelled.all)
		for range never {
			require.Fail(t, "an event after the context has ended")
		}
		for ev := range hangs {
			require.Equal(t, forward.EventMissed, ev.Kind)
			require.EqualValues(t, len(lines)-1024, ev.Count)
			break
		}
		b.Server.Close()
		<-r.done
		for range b.Server.Events(b.Ctx) {
			require.Fail(t, "an event after the end")
		}
	})
}
