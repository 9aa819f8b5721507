package e2e

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// Nothing of a stream stays reserved, whatever happens in the host's code that decides
// about it, and if its context is nil.
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
				cfg := forward.Config{
					Dial: func(ctx context.Context, n, addr string) (net.Conn, error) {
						at("Dial")
						if addr == "down:1935" {
							return nil, errors.New("connection refused")
						}
						return network.Dial(ctx, n, addr)
					},
					Retry:       func(forward.RetryInfo) time.Duration { at("Retry"); return 0 },
					PublishAuth: func(string) (forward.Secret, bool) { at("PublishAuth"); return "pass", true },
					Limits:      forward.Limits{Streams: 1, TotalDestinations: 2, Connections: 6},
					Resolver: forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
						at("Resolver")
						return []forward.Destination{{URL: "rtmp://a/live/" + canary}, {URL: "rtmp://down/live/" + canary}}, nil
					}),
					Hooks: forward.Hooks{
						OnConnect:   func(context.Context, *forward.Request) error { at("OnConnect"); return nil },
						OnPublish:   func(context.Context, *forward.Request) error { at("OnPublish"); return nil },
						OnUnpublish: func(context.Context, *forward.Request) { at("OnUnpublish") },
						OnPlay:      func(context.Context, *forward.Request) error { at("OnPlay"); return nil },
						OnStop:      func(context.Context, *forward.Request) { at("OnStop") },
						OnClose:     func(context.Context, *forward.Request, uint64, uint64) { at("OnClose") },
						OnForward:   func(*forward.Forwarder, forward.State, error) { at("OnForward") },
					},
				}
				inBubble(t, cfg, func(b *bubble) {
					d := network.NewDestination("a:1935")
					defer d.Close()
					l, err := network.Listen("own:1935")
					require.NoError(b, err)
					go b.Server.Serve(l)
					c := forwardtest.Client{URL: "rtmp://own/live/s", User: "user", Password: "pass", Dial: network.Dial}
					inside := forward.Request{App: "live", Stream: "s"}
					try := func() (fails int) {
						for range 3 {
							if p, err := b.Server.Publish(b.Ctx, inside); err == nil {
								time.Sleep(3 * time.Second)
								p.Close()
								<-p.Source().Done()
							} else {
								require.NotErrorIs(b, err, forward.ErrStreamBusy)
								require.NotErrorIs(b, err, forward.ErrLimit)
								fails++
							}
							p, err := c.Publish(b.Ctx)
							if err != nil {
								fails++
								time.Sleep(time.Second)
								continue
							}
							if player, err := c.Play(b.Ctx, nil); err == nil {
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
					st := b.Server.Stats()
					require.Equal(b, [4]int{}, [4]int{st.Connections, st.Streams, st.Destinations, st.Players})
					require.Empty(b, st.States)
				})
			})
		}
	}
}

func TestNoContextIsBackground(t *testing.T) {
	inBubble(t, forward.Config{}, func(b *bubble) {
		var none context.Context
		b.Destination("a:1935")
		b.Destination("b:1935")
		p, err := b.Server.Publish(none, forward.Request{App: "live", Stream: "s"})
		require.NoError(b, err)
		f, err := p.Source().Forward(forward.Destination{URL: "rtmp://a/live", StreamKey: canary})
		require.NoError(b, err)
		require.NoError(b, p.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader))
		require.NoError(b, p.WriteTag(forward.TagVideo, 0, rtmptest.Frame(true, 0)))
		time.Sleep(time.Second)
		go func() {
			time.Sleep(time.Second)
			p.WriteTag(forward.TagVideo, 2000, rtmptest.Frame(true, 1))
		}()
		require.NoError(b, f.Update(none, forward.Destination{URL: "rtmp://b/live", StreamKey: canary}))
		sub, dem := p.Source().Subscribe(none), p.Source().Demuxer(none)
		_, err = sub.Next()
		require.NoError(b, err)
		require.NoError(b, dem.Close())
		require.NoError(b, p.Source().Refresh(none))
		require.NoError(b, f.Shutdown(none))
		near, far := forwardtest.Pipe()
		near.Close()
		require.NoError(b, b.Server.ServeConn(none, far))
		require.NoError(b, p.Close())
		require.NoError(b, b.Server.Shutdown(none))
		_, err = b.Server.Publish(none, forward.Request{App: "live", Stream: "s"})
		require.ErrorIs(b, err, forward.ErrServerClosed)
	})
}

// A call that waits ends with its context, even if a hook hangs.
func TestContextsEndWaits(t *testing.T) {
	release := make(chan struct{})
	cfg := forward.Config{Dial: neverDials, Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, s forward.State, _ error) {
		if s == forward.StateConnecting {
			<-release
		}
	}}}
	synctest.Test(t, func(t *testing.T) {
		release = make(chan struct{})
		s := newServer(t, cfg)
		src := publish(t, s, "live", canary).Source()
		f, err := src.Forward(forward.Destination{URL: "rtmp://a/live", StreamKey: canary})
		require.NoError(t, err)
		g, err := src.Forward(forward.Destination{URL: "rtmp://b/live", StreamKey: canary})
		require.NoError(t, err)
		synctest.Wait()
		for name, wait := range map[string]func(ctx context.Context) error{
			"Forwarder": f.Shutdown,
			"Shutdown":  s.Shutdown,
			"Update": func(ctx context.Context) error {
				return g.Update(ctx, forward.Destination{URL: "rtmp://c/live", StreamKey: canary})
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

// The contexts of reporting hooks end, and soon once the Server is closed.
func TestContextsOfReportingHooksEnd(t *testing.T) {
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
			cfg := forward.Config{Hooks: forward.Hooks{
				OnUnpublish: func(ctx context.Context, req *forward.Request) {
					if req.App == "live" {
						wait("OnUnpublish", ctx)
					}
				},
				OnStop: func(ctx context.Context, _ *forward.Request) { wait("OnStop", ctx) },
				OnClose: func(ctx context.Context, req *forward.Request, _, _ uint64) {
					if req.App == "close" {
						wait("OnClose", ctx)
					}
				},
			}}
			inBubble(t, cfg, func(b *bubble) {
				pub := b.Publish("live/s")
				player := b.Play("live/s")
				other := b.Publish("close/s")
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
						b.Server.Close()
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

// A closed connection immediately makes room for another, even while its stream drains.
func TestClosedConnectionMakesRoom(t *testing.T) {
	for name, limits := range map[string]forward.Limits{
		"in all": {Connections: 1}, "of an address": {ConnectionsPerAddress: 1},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := forward.Config{Limits: limits, DrainTimeout: time.Minute, WriteTimeout: time.Minute, Resolver: forward.MustStatic("rtmp://stalled/live/" + canary)}
			inBubble(t, cfg, func(b *bubble) {
				b.Destination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}})
				first := b.Publish("live/s")
				time.Sleep(time.Second)
				require.NoError(b, first.Send(b.Ctx, bitrate(4_000_000).Messages(time.Second), 0))
				src := b.Server.Source("live/s")
				_, err := b.Client("live/s").Publish(b.Ctx)
				require.Error(b, err)
				first.Close()
				began := time.Now()
				synctest.Wait()
				require.Zero(b, b.Server.Stats().Connections)
				select {
				case <-src.Done():
					b.Error("the stream does not drain: the test shows nothing")
				default:
				}
				again, err := b.Client("live/s").Publish(b.Ctx)
				require.NoError(b, err)
				require.Zero(b, time.Since(began))
				again.Close()
			})
		})
	}
}

// When a client leaves, the calls of the host's code about it are cancelled. Afterwards
// everything reserved for the client is free. Leaving does not count as a refusal.
func TestClientLeavesWhileTheHostDecides(t *testing.T) {
	type asked func(ctx context.Context) error
	for name, hook := range map[string]func(asked) forward.Config{
		"OnConnect": func(f asked) forward.Config {
			return forward.Config{Hooks: forward.Hooks{OnConnect: func(ctx context.Context, _ *forward.Request) error { return f(ctx) }}}
		},
		"OnPublish": func(f asked) forward.Config {
			return forward.Config{Hooks: forward.Hooks{OnPublish: func(ctx context.Context, _ *forward.Request) error { return f(ctx) }}}
		},
		"OnPlay": func(f asked) forward.Config {
			return forward.Config{Hooks: forward.Hooks{OnPlay: func(ctx context.Context, _ *forward.Request) error { return f(ctx) }}}
		},
		"Resolver": func(f asked) forward.Config {
			return forward.Config{Resolver: forward.ResolverFunc(func(ctx context.Context, _ *forward.Request) ([]forward.Destination, error) {
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
				ctx, cancel := context.WithCancel(b.Ctx)
				defer cancel()
				leave := make(chan struct{})
				for range 3 {
					go func() {
						if name == "OnPlay" {
							b.Client("live/s").Play(ctx, nil)
						} else {
							b.Client("live/s").Publish(ctx)
						}
						close(leave)
					}()
					time.Sleep(time.Minute) // it counts for none of our limits
					require.Empty(b, causes)
					cancel()
					<-leave
					synctest.Wait()
					require.ErrorIs(b, <-causes, context.Canceled)
					synctest.Wait()
					require.Zero(b, b.Server.Stats().Connections)
					ctx, cancel = context.WithCancel(b.Ctx)
					leave = make(chan struct{})
				}
				cancel()
				block.Store(false)
				require.NoError(b, b.Publish("live/s").Send(b.Ctx, steady.Messages(time.Second), 1))
			})
		})
	}
}

// Server.Close waits for a hook that decides about a next publisher inside the process,
// as for any hook.
func TestCloseWaitsForHooksOfNextPublishers(t *testing.T) {
	var asked, decided atomic.Int64
	inBubble(t, forward.Config{Takeover: true, Hooks: forward.Hooks{OnPublish: func(context.Context, *forward.Request) error {
		if asked.Add(1) == 2 {
			time.Sleep(time.Minute)
		}
		decided.Add(1)
		return nil
	}}}, func(b *bubble) {
		_, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
		require.NoError(b, err)
		refused := make(chan error, 1)
		go func() {
			_, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
			refused <- err
		}()
		synctest.Wait()
		require.NoError(b, b.Server.Close())
		require.EqualValues(b, 2, decided.Load())
		require.ErrorIs(b, <-refused, forward.ErrStreamEnded)
	})
}
