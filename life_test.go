package forward_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// life is a Server at which everything happens at random for some time.
type life struct {
	*hosttest.Bubble
	cfg  forward.Config
	work sync.WaitGroup
	ctx  context.Context // of the events

	mu      sync.Mutex
	rand    *rand.Rand
	calls   map[string]int
	states  map[*forward.Forwarder][]told
	updates map[*forward.Forwarder]int
}

func (l *life) n(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rand.IntN(n)
}

func (l *life) ms(n int) time.Duration { return time.Duration(l.n(n)) * time.Millisecond }

// nap sometimes delays the host's code by up to 4 s.
func (l *life) nap(ctx context.Context) {
	if l.n(3) == 0 {
		select {
		case <-ctx.Done():
		case <-time.After(l.ms(4000)):
		}
	}
}

func (l *life) hooks() forward.Hooks {
	call := func(ctx context.Context, name string) {
		l.nap(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.calls[name]++
	}
	return forward.Hooks{
		OnConnect: func(ctx context.Context, _ *forward.Request) error { call(ctx, "connect"); return nil },
		OnClose:   func(ctx context.Context, _ *forward.Request, _, _ uint64) { call(ctx, "close") },
		OnPublish: func(ctx context.Context, _ *forward.Request) error {
			if l.n(10) == 0 {
				return errors.New("not now")
			}
			call(ctx, "publish")
			return nil
		},
		OnUnpublish: func(ctx context.Context, _ *forward.Request) { call(ctx, "unpublish") },
		OnPlay:      func(ctx context.Context, _ *forward.Request) error { call(ctx, "play"); return nil },
		OnStop:      func(ctx context.Context, _ *forward.Request) { call(ctx, "stop") },
		OnForward: func(f *forward.Forwarder, s forward.State, _ error) {
			l.mu.Lock()
			l.states[f] = append(l.states[f], told{s, f.ID()})
			l.mu.Unlock()
			l.nap(context.Background())
		},
	}
}

// again does something at random times until everything is over.
func (l *life) again(within int, do func()) {
	l.work.Go(func() {
		for l.ctx.Err() == nil {
			time.Sleep(l.ms(within))
			do()
		}
	})
}

func (l *life) stream() string { return []string{"live/x", "live/y"}[l.n(2)] }

func (l *life) publishes() {
	p, err := l.Client(l.stream()).Publish(l.ctx)
	if err != nil {
		return
	}
	defer p.Close()
	media := forwardtest.Media{ID: uint32(1 + l.n(3)), KeyframeInterval: time.Second, VideoBitrate: 1 << (17 + l.n(6))}
	ctx, cancel := context.WithTimeout(l.ctx, l.ms(5000))
	defer cancel()
	p.Send(ctx, media.Messages(-1), float64(int(1)<<l.n(4)))
	if l.n(2) == 0 {
		p.Unpublish()
		time.Sleep(l.ms(1000))
	}
}

func (l *life) plays() {
	if p, err := l.Client(l.stream()).Play(l.ctx, nil); err == nil {
		time.Sleep(l.ms(6000))
		p.Close()
	}
}

// redirects redirects one of a destination's last sessions.
func (l *life) redirects(all ...*forwardtest.Destination) {
	d := all[l.n(len(all))]
	sessions := d.Sessions()
	if len(sessions) == 0 {
		return
	}
	info := map[string]any{"level": "status", "code": "NetConnection.Connect.ReconnectRequest", "description": "x"}
	if l.n(2) == 0 {
		info["tcUrl"] = []string{"/other", "rtmp://a:2935/live", "rtmp://b:2935/live"}[l.n(3)]
	}
	sessions[len(sessions)-1-l.n(min(len(sessions), 3))].Send(0, "onStatus", 0, nil, info)
}

func (l *life) destination() forward.Destination {
	return forward.Destination{URL: fmt.Sprintf("rtmp://%c/live/%s%d", 'a'+l.n(3), secretscan.Canary, l.n(3))}
}

// operates does what a host may do.
func (l *life) operates() {
	sources := l.Server.Sources()
	if len(sources) == 0 {
		return
	}
	src := sources[l.n(len(sources))]
	ctx, cancel := context.WithTimeout(l.ctx, l.ms(3000))
	defer cancel()
	var f *forward.Forwarder
	if all := src.Forwarders(); len(all) > 0 {
		f = all[l.n(len(all))]
	}
	switch n := l.n(9); {
	case n == 0:
		src.Refresh(ctx)
	case n == 1:
		src.Forward(l.destination())
	case n == 2 && l.n(4) == 0:
		src.Shutdown(ctx)
	case n == 3 && l.n(8) == 0:
		src.Close()
	case n == 4:
		sub := src.Subscribe(ctx)
		for range l.n(200) {
			if _, err := sub.Next(); err != nil {
				break
			}
		}
		if l.n(2) == 0 {
			sub.Close()
		}
	case n == 5:
		cfg := l.cfg
		cfg.Logger, cfg.Dial = secretscan.Quiet, l.Net.Dial
		l.Server.Reload(cfg)
	case f == nil:
	case n == 6:
		if f.Update(ctx, l.destination()) == nil {
			l.mu.Lock()
			l.updates[f]++
			l.mu.Unlock()
		}
	case n == 7:
		f.Shutdown(ctx)
	case n == 8:
		f.Close()
	}
}

// counts checks that the counters of all Forwarders never fall.
func (l *life) counts(last map[*forward.Forwarder]forward.ForwarderStats) {
	require.GreaterOrEqual(l, l.Server.Stats().Buffered, 0)
	for _, src := range l.Server.Sources() {
		for _, f := range src.Forwarders() {
			st, before := f.Stats(), last[f]
			for _, c := range [][2]uint64{
				{before.Bytes, st.Bytes}, {before.Messages, st.Messages}, {before.DroppedLate, st.DroppedLate},
				{before.DroppedNoKeyframe, st.DroppedNoKeyframe}, {before.Connects, st.Connects}, {before.Accepted, st.Accepted}, {st.Accepted, st.Connects},
			} {
				require.LessOrEqual(l, c[0], c[1])
			}
			last[f] = st
		}
	}
}

// ends ends the Server, in one of several ways.
func (l *life) ends() {
	brief := func() (context.Context, context.CancelFunc) { return context.WithTimeout(l.Bubble.Ctx, l.ms(1000)) }
	switch l.n(4) {
	case 0:
		began := time.Now()
		l.Server.Shutdown(l.Bubble.Ctx)
		require.Less(l, time.Since(began), 25*time.Second)
	case 1:
		ctx, cancel := brief()
		l.Server.Shutdown(ctx)
		cancel()
		l.Server.Close()
	case 2:
		go l.Server.Close()
		go l.Server.Shutdown(l.Bubble.Ctx)
		l.Server.Close()
	default:
		time.Sleep(2 * time.Minute)
		l.isEmpty() // everything has ended by itself
		l.Server.Close()
	}
}

func (l *life) isEmpty() {
	synctest.Wait()
	st := l.Server.Stats()
	require.Zero(l, st.Buffered)
	require.Zero(l, st.Connections+st.Streams+st.Destinations, "%+v", st)
	require.Empty(l, l.Server.Left())
}

// told is a call of OnForward and its destination.
type told struct {
	state forward.State
	id    string
}

// told checks that each hook has been followed by its counterpart, and the order of states.
func (l *life) told() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for begin, end := range map[string]string{"connect": "close", "publish": "unpublish", "play": "stop"} {
		require.Equal(l, l.calls[begin], l.calls[end], end)
	}
	for f, states := range l.states {
		require.Equal(l, forward.StateClosed, states[len(states)-1].state, "%v", states)
		updates := 0
		for i, s := range states[1:] {
			before := states[i]
			require.NotEqual(l, forward.StateClosed, before.state, "%v", states)
			if before.state == forward.StateDraining {
				require.Equal(l, forward.StateClosed, s.state, "%v", states)
			}
			if s.state == forward.StatePublishing && !slices.Contains([]forward.State{forward.StateHandshaking, forward.StateStalled}, before.state) {
				updates++
				continue
			}
			require.NotEqual(l, before, s, "%v", states)
		}
		require.LessOrEqual(l, updates, l.updates[f], "%v", states)
	}
	clear(l.updates)
	clear(l.states)
}

// Events of all kinds happen at a Server in any order. Hooks are paired, counters never fall,
// states come in order, and nothing is left at the end.
func TestLifeOfAServer(t *testing.T) {
	seeds := uint64(24)
	if hosttest.RaceDetector() {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			l := &life{rand: rand.New(rand.NewPCG(seed, 1)), calls: make(map[string]int), states: make(map[*forward.Forwarder][]told), updates: make(map[*forward.Forwarder]int)}
			l.cfg = forward.Config{MemoryBudget: 20 << 20, Takeover: seed%2 == 0, GraceUnpublish: seed%3 == 0, EndPlayers: seed%5 == 0, Hooks: l.hooks()}
			if seed%4 < 2 {
				l.cfg.PublishGrace = 3 * time.Second
			}
			if seed%7 < 3 {
				l.cfg.PlayerWait = 2 * time.Second
			}
			l.cfg.Resolver = forward.ResolverFunc(func(ctx context.Context, r *forward.Request) (ds []forward.Destination, _ error) {
				l.nap(ctx)
				for _, host := range []string{"a", "b", "c", "down"} {
					if l.n(2) == 0 {
						ds = append(ds, forward.Destination{URL: "rtmp://" + host + "/live/" + secretscan.Canary + r.Stream})
					}
				}
				return ds, nil
			})
			hosttest.InBubble(t, l.cfg, func(b *hosttest.Bubble) {
				l.Bubble = b
				var cancel context.CancelFunc
				l.ctx, cancel = context.WithTimeout(b.Ctx, 5*time.Second+l.ms(30_000))
				defer cancel()
				slow := forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Rate: 20_000}}}
				first := b.Destination("a:1935", forwardtest.Script{}, slow)
				second := b.Destination("b:1935", slow)
				b.Destination("c:1935", forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Refuse: "NetStream.Publish.BadName"}}})
				for range 4 {
					l.again(2000, l.publishes)
				}
				for range 3 {
					l.again(1000, l.plays)
				}
				for range 2 {
					l.again(1500, l.operates)
				}
				l.again(500, func() { l.redirects(first, second) })
				last := make(map[*forward.Forwarder]forward.ForwarderStats)
				l.again(100, func() { l.counts(last) })
				if seed%3 == 1 { // it ends in the middle
					l.work.Go(func() {
						time.Sleep(l.ms(15_000))
						l.ends()
					})
				}
				l.work.Wait()
				clear(last)
				l.ends()
				l.isEmpty()
				l.told()
			})
		})
	}
}
