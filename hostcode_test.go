package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

// Whatever becomes of the host's code that is asked about a stream, and of a
// context that is nil, nothing of the stream stays reserved.
func TestNothingStaysReserved(t *testing.T) {
	ways := map[string]func(){
		"panics":             func() { panic("of the host") },
		"ends its goroutine": runtime.Goexit,
	}
	for way, f := range ways {
		for _, place := range []string{"OnConnect", "OnPublish", "OnUnpublish", "Resolver", "OnForward", "Retry", "Dial", "PublishAuth", "OnPlay", "OnStop", "OnClose"} {
			t.Run(place+" "+way, func(t *testing.T) {
				var broken atomic.Bool
				at := func(here string) {
					if here == place && broken.Load() {
						f()
					}
				}
				network := new(forwardtest.Network)
				cfg := Config{
					Dial: func(ctx context.Context, n, addr string) (net.Conn, error) {
						at("Dial")
						if addr == "down:1935" {
							return nil, errors.New("connection refused")
						}
						return network.Dial(ctx, n, addr)
					},
					Retry:       func(RetryInfo) time.Duration { at("Retry"); return 0 },
					PublishAuth: func(string) (Secret, bool) { at("PublishAuth"); return "pass", true },
					Limits:      Limits{Streams: 1, TotalDestinations: 2, Connections: 6},
					Resolver: ResolverFunc(func(context.Context, *PublishRequest) ([]Destination, error) {
						at("Resolver")
						return []Destination{{URL: "rtmp://a/live/" + canary}, {URL: "rtmp://down/live/" + canary}}, nil
					}),
					Hooks: Hooks{
						OnConnect:   func(context.Context, *ConnectRequest) error { at("OnConnect"); return nil },
						OnPublish:   func(context.Context, *PublishRequest) error { at("OnPublish"); return nil },
						OnUnpublish: func(context.Context, *PublishRequest) { at("OnUnpublish") },
						OnPlay:      func(context.Context, *PlayRequest) error { at("OnPlay"); return nil },
						OnStop:      func(context.Context, *PlayRequest) { at("OnStop") },
						OnClose:     func(context.Context, *ConnectRequest) { at("OnClose") },
						OnForward:   func(*Forwarder, State, error) { at("OnForward") },
					},
				}
				inBubble(t, cfg, func(b *bubble) {
					d := network.NewDestination("a:1935")
					defer d.Close()
					l, err := network.Listen("own:1935")
					require.NoError(b, err)
					go b.srv.Serve(l)
					c := forwardtest.Client{URL: "rtmp://own/live/s", User: "user", Password: "pass", Dial: network.Dial}
					inside := PublishRequest{App: "live", Stream: "s"}
					try := func() (fails int) {
						for range 3 {
							if p, err := b.srv.Publish(b.ctx, inside); err == nil {
								time.Sleep(3 * time.Second)
								p.Close()
								<-p.Source().Done()
							} else {
								require.NotErrorIs(b, err, ErrStreamBusy)
								require.NotErrorIs(b, err, ErrLimit)
								fails++
							}
							p, err := c.Publish(b.ctx)
							if err != nil {
								fails++
								time.Sleep(time.Second)
								continue
							}
							if player, err := c.Play(b.ctx, nil); err == nil {
								player.Close()
							}
							time.Sleep(3 * time.Second)
							p.Close()
							time.Sleep(time.Second)
						}
						return fails
					}
					broken.Store(true)
					try()
					broken.Store(false)
					require.Zero(b, try())
					require.Equal(b, ServerStats{Buffered: b.srv.Stats().Buffered, Refused: b.srv.Stats().Refused, RefusedFrom: b.srv.Stats().RefusedFrom}, b.srv.Stats())
				})
			})
		}
	}
}

func TestNoContextIsBackground(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		var none context.Context
		b.destination("a:1935")
		b.destination("b:1935")
		p, err := b.srv.Publish(none, PublishRequest{App: "live", Stream: "s"})
		require.NoError(b, err)
		f, err := p.Source().Forward(Destination{URL: "rtmp://a/live", StreamKey: canary})
		require.NoError(b, err)
		require.NoError(b, p.WriteTag(TagVideo, 0, videoHeader))
		require.NoError(b, p.WriteTag(TagVideo, 0, frame(true, 0)))
		time.Sleep(time.Second)
		go func() {
			time.Sleep(time.Second)
			p.WriteTag(TagVideo, 2000, frame(true, 1))
		}()
		require.NoError(b, f.Update(none, Destination{URL: "rtmp://b/live", StreamKey: canary}))
		sub, dem := p.Source().Subscribe(none), p.Source().Demuxer(none)
		_, err = sub.Next()
		require.NoError(b, err)
		require.NoError(b, dem.Close())
		require.NoError(b, p.Source().Refresh(none))
		require.NoError(b, f.Shutdown(none))
		near, far := forwardtest.Pipe()
		near.Close()
		require.NoError(b, b.srv.ServeConn(none, far))
		require.NoError(b, p.Close())
		require.NoError(b, b.srv.Shutdown(none))
		_, err = b.srv.Publish(none, PublishRequest{App: "live", Stream: "s"})
		require.ErrorIs(b, err, ErrServerClosed)
	})
}

// What waits ends with its context, also where a hook hangs.
func TestContextsEndWaits(t *testing.T) {
	release := make(chan struct{})
	cfg := Config{Dial: neverDials, Hooks: Hooks{OnForward: func(_ *Forwarder, s State, _ error) {
		if s == StateConnecting {
			<-release
		}
	}}}
	synctest.Test(t, func(t *testing.T) {
		release = make(chan struct{})
		s := newServer(t, cfg)
		src := publish(t, s, "live", canary).Source()
		f, err := src.Forward(Destination{URL: "rtmp://a/live", StreamKey: canary})
		require.NoError(t, err)
		g, err := src.Forward(Destination{URL: "rtmp://b/live", StreamKey: canary})
		require.NoError(t, err)
		synctest.Wait()
		for name, wait := range map[string]func(ctx context.Context) error{
			"Forwarder": f.Shutdown,
			"Shutdown":  s.Shutdown,
			"Update": func(ctx context.Context) error {
				return g.Update(ctx, Destination{URL: "rtmp://c/live", StreamKey: canary})
			},
		} {
			if name == "Shutdown" {
				continue // the last one
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			require.ErrorIs(t, wait(ctx), context.DeadlineExceeded, name)
			require.Equal(t, time.Second, time.Since(began), name)
			cancel()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		close(release)
		require.NoError(t, s.Close())
	})
}

// The contexts of hooks that are only told end, and do so soon once the Server is
// closed.
func TestContextsOfToldHooksEnd(t *testing.T) {
	for name, closing := range map[string]time.Duration{"by themselves": time.Hour, "after Close": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			took := make(map[string]time.Duration)
			wait := func(what string, ctx context.Context) {
				began := time.Now()
				<-ctx.Done()
				mu.Lock()
				defer mu.Unlock()
				took[what] = time.Since(began)
			}
			cfg := Config{Hooks: Hooks{
				OnUnpublish: func(ctx context.Context, req *PublishRequest) {
					if req.App == "live" {
						wait("OnUnpublish", ctx)
					}
				},
				OnStop: func(ctx context.Context, _ *PlayRequest) { wait("OnStop", ctx) },
				OnClose: func(ctx context.Context, req *ConnectRequest) {
					if req.App == "close" {
						wait("OnClose", ctx)
					}
				},
			}}
			inBubble(t, cfg, func(b *bubble) {
				pub := b.publish("live/s")
				player := b.play("live/s")
				other := b.publish("close/s")
				time.Sleep(time.Second)
				player.Close()
				pub.Close()
				other.Vanish()
				synctest.Wait()
				over := make(chan struct{})
				defer close(over)
				go func() {
					select {
					case <-time.After(closing):
						b.srv.Close()
					case <-over:
					}
				}()
				want := min(tellTimeout, closing+tellAfterClose)
				time.Sleep(2 * want)
				mu.Lock()
				defer mu.Unlock()
				require.Equal(b, want, took["OnStop"])
				require.Equal(b, want, took["OnUnpublish"])
				require.NotZero(b, took["OnClose"])
				require.LessOrEqual(b, took["OnClose"], tellTimeout)
			})
		})
	}
}

// A connection that is closed makes room at once, though its stream drains.
func TestClosedConnectionMakesRoom(t *testing.T) {
	for name, limits := range map[string]Limits{
		"in all": {Connections: 1}, "of an address": {ConnectionsPerAddress: 1},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Limits: limits, DrainTimeout: time.Minute, WriteTimeout: time.Minute, Resolver: MustStatic("rtmp://stalled/live/" + canary)}
			inBubble(t, cfg, func(b *bubble) {
				b.destination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}})
				first := b.publish("live/s")
				time.Sleep(time.Second)
				require.NoError(b, first.Send(b.ctx, bitrate(4_000_000).Messages(time.Second), 0))
				src := b.srv.Source("live/s")
				_, err := b.client("live/s").Publish(b.ctx)
				require.Error(b, err)
				first.Close()
				began := time.Now()
				synctest.Wait()
				require.Zero(b, b.srv.Stats().Connections)
				select {
				case <-src.Done():
					b.Error("the stream does not drain: the test shows nothing")
				default:
				}
				again, err := b.client("live/s").Publish(b.ctx)
				require.NoError(b, err)
				require.Zero(b, time.Since(began))
				again.Close()
			})
		})
	}
}

// Nothing comes behind the end of a log, whoever ends it and when.
func TestNothingIsAppendedAfterTheEnd(t *testing.T) {
	s := newServer(t, Config{MergeWindow: -1})
	for i := range 300 {
		p := publish(t, s, "live", fmt.Sprint("s", i))
		log := p.Source().log
		writing, over := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(over)
			for n := 0; p.WriteTag(TagVideo, uint32(n), frame(n%10 == 0, n)) == nil; n++ {
				if n == i%7 {
					close(writing)
				}
				if n > 5000 {
					return
				}
			}
		}()
		<-writing
		go p.Source().Shutdown(context.Background())
		for !log.Ended() {
			runtime.Gosched()
		}
		head, messages := log.Head(), p.Source().Stats().Messages
		<-over
		require.Equal(t, head, log.Head())
		require.Equal(t, messages, p.Source().Stats().Messages)
	}
}

// What the host is asked about a client ends when the client leaves, and then what
// was reserved for it is free. To leave is no refusal.
func TestClientLeavesWhileTheHostDecides(t *testing.T) {
	type asked func(ctx context.Context) error
	for name, hook := range map[string]func(asked) Config{
		"OnConnect": func(f asked) Config {
			return Config{Hooks: Hooks{OnConnect: func(ctx context.Context, _ *ConnectRequest) error { return f(ctx) }}}
		},
		"OnPublish": func(f asked) Config {
			return Config{Hooks: Hooks{OnPublish: func(ctx context.Context, _ *PublishRequest) error { return f(ctx) }}}
		},
		"OnPlay": func(f asked) Config {
			return Config{Hooks: Hooks{OnPlay: func(ctx context.Context, _ *PlayRequest) error { return f(ctx) }}}
		},
		"Resolver": func(f asked) Config {
			return Config{Resolver: ResolverFunc(func(ctx context.Context, _ *PublishRequest) ([]Destination, error) {
				return nil, f(ctx)
			})}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var block atomic.Bool
			block.Store(true)
			causes := make(chan error, 1)
			cfg := hook(func(ctx context.Context) error {
				if block.Load() {
					<-ctx.Done()
					causes <- ctx.Err()
					return ctx.Err()
				}
				return nil
			})
			cfg.Limits.Streams, cfg.Limits.Connections, cfg.Limits.RefusalsPerAddress = 1, 1, 1
			inBubble(t, cfg, func(b *bubble) {
				ctx, cancel := context.WithCancel(b.ctx)
				defer cancel()
				leave := make(chan struct{})
				for range 3 {
					go func() {
						if name == "OnPlay" {
							b.client("live/s").Play(ctx, nil)
						} else {
							b.client("live/s").Publish(ctx)
						}
						close(leave)
					}()
					time.Sleep(time.Minute) // no bound of ours counts it
					require.Empty(b, causes)
					cancel()
					<-leave
					synctest.Wait()
					require.ErrorIs(b, <-causes, context.Canceled)
					synctest.Wait()
					require.Zero(b, b.srv.Stats().Connections)
					ctx, cancel = context.WithCancel(b.ctx)
					leave = make(chan struct{})
				}
				cancel()
				block.Store(false)
				require.NoError(b, b.publish("live/s").Send(b.ctx, steady.Messages(time.Second), 1))
			})
		})
	}
}

// Server.Close waits for a hook that decides about a next publisher inside the
// process, as about any.
func TestCloseWaitsForHooksOfNextPublishers(t *testing.T) {
	var asked, decided atomic.Int64
	inBubble(t, Config{Takeover: true, Hooks: Hooks{OnPublish: func(context.Context, *PublishRequest) error {
		if asked.Add(1) == 2 {
			time.Sleep(time.Minute)
		}
		decided.Add(1)
		return nil
	}}}, func(b *bubble) {
		_, err := b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: "s"})
		require.NoError(b, err)
		refused := make(chan error, 1)
		go func() {
			_, err := b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: "s"})
			refused <- err
		}()
		synctest.Wait()
		require.NoError(b, b.srv.Close())
		require.EqualValues(b, 2, decided.Load())
		require.ErrorIs(b, <-refused, ErrStreamEnded)
	})
}
