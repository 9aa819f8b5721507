package e2e

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// Shutdown sends the rest, tells every peer, and does not wait for peers that have
// nothing to receive.
func TestShutdown(t *testing.T) {
	cfg := forward.Config{Resolver: forward.MustStatic("rtmp://a/live/"+canary, "rtmp://b/live/"+canary)}
	inBubble(t, cfg, func(b *bubble) {
		dests := []*forwardtest.Destination{b.Destination("a:1935"), b.Destination("b:1935")}
		pub := b.Publish("live/" + canary)
		var sessions []*forwardtest.Session
		for _, d := range dests {
			sessions = append(sessions, b.Published(d, 1))
		}
		player, paused, waiting := b.Play("live/"+canary), b.Play("live/"+canary), b.Play("live/none")
		paused.Send(1, "pause", 0, nil, true, 0)
		c, idle := b.Served("live/idle")
		c.StopBefore = "connect"
		_, err := c.Publish(b.Ctx)
		require.NoError(b, err)
		require.NoError(b, pub.Send(b.Ctx, steady.Messages(3*time.Second), 1))
		// This message has just arrived, inside the merge window.
		require.NoError(b, pub.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Timestamp: 3000, Payload: rtmptest.Frame(true, 1)}))
		synctest.Wait()
		src := b.Server.Source("live/" + canary)

		began := time.Now()
		require.NoError(b, b.Server.Shutdown(b.Ctx))
		require.Less(b, time.Since(began), 2*time.Second)
		<-src.Done()
		require.NoError(b, <-idle)
		for _, s := range sessions {
			<-s.Done()
			require.Equal(b, []string{"connect", "releaseStream", "FCPublish", "createStream", "publish", "FCUnpublish", "deleteStream"}, names(s))
			require.Equal(b, 76, s.Recorder().Report().Frames)
		}
		<-player.Done()
		require.Equal(b, 76, player.Recorder().Report().Frames)
		_, err = player.WaitCommand(b.Ctx, "onStatus")
		require.NoError(b, err)
		commands := player.Commands()
		require.Equal(b, "NetStream.Play.UnpublishNotify", commands[len(commands)-1].Code())
		<-paused.Done()
		<-waiting.Done()
		<-pub.Done()

		_, err = b.Client("live/" + canary).Publish(b.Ctx)
		require.ErrorIs(b, err, syscall.ECONNREFUSED, "nobody listens")
		_, err = b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: canary})
		require.ErrorIs(b, err, forward.ErrServerClosed)
		_, theirs := forwardtest.Pipe()
		require.ErrorIs(b, b.Server.ServeConn(b.Ctx, theirs), forward.ErrServerClosed)
		require.NoError(b, b.Server.Shutdown(b.Ctx), "again")
		require.NoError(b, b.Server.Close())
	})
}

// A peer that does not read the rest is cut off when its time is over.
func TestShutdownWithStalledPeers(t *testing.T) {
	stalled := forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}}
	for _, row := range []struct {
		name  string
		drain time.Duration
		limit time.Duration // timeout of ctx
		want  error
		after time.Duration
	}{
		{"DrainTimeout", 0, time.Hour, nil, 5 * time.Second},
		{"DrainTimeout of 1 s", time.Second, time.Hour, nil, time.Second},
		{"ctx", time.Hour, 2 * time.Second, context.DeadlineExceeded, 2 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary), DrainTimeout: row.drain, WriteTimeout: 2 * time.Hour}
			inBubble(t, cfg, func(b *bubble) {
				d := b.Destination("a:1935", stalled)
				pub := b.Publish("live/" + canary)
				b.Published(d, 1)
				require.NoError(b, pub.Send(b.Ctx, steady.Messages(3*time.Second), 1))
				synctest.Wait() // everything is read: Shutdown need not look for more
				ctx, cancel := context.WithTimeout(b.Ctx, row.limit)
				defer cancel()
				began := time.Now()
				require.ErrorIs(b, b.Server.Shutdown(ctx), row.want)
				require.Equal(b, row.after, time.Since(began))
				require.NoError(b, b.Server.Close())
				require.Equal(b, row.after, time.Since(began), "Close takes no time")
			})
		})
	}
}

// Each accepting hook is followed by its counterpart once, however the client ends.
func TestHooksAreCalledOnce(t *testing.T) {
	type clients struct {
		*bubble
		pub  *forwardtest.Publisher
		play *forwardtest.Player
	}
	for name, end := range map[string]func(c clients){
		"clients close":         func(c clients) { c.pub.Close(); c.play.Close() },
		"clients reset":         func(c clients) { c.pub.Reset(); c.play.Reset() },
		"unpublish, then close": func(c clients) { c.pub.Unpublish(); synctest.Wait(); c.pub.Close(); c.play.Close() },
		"unpublish twice":       func(c clients) { c.pub.Unpublish(); c.pub.Unpublish(); synctest.Wait(); c.pub.Close(); c.play.Close() },
		"the player stops first": func(c clients) {
			c.play.Send(0, "deleteStream", 0, nil, 1)
			synctest.Wait()
			c.play.Close()
			c.pub.Close()
		},
		"kicked":            func(c clients) { c.Server.Source("live/" + canary).Close(); c.play.Close() },
		"kicked twice":      func(c clients) { s := c.Server.Source("live/" + canary); s.Close(); s.Close(); c.play.Close() },
		"no media":          func(c clients) { time.Sleep(time.Minute); c.play.Close() },
		"broken protocol":   func(c clients) { c.pub.Write(rtmptest.SetChunkSize(0)); c.play.Write(rtmptest.SetChunkSize(0)) },
		"Shutdown":          func(c clients) { c.Server.Shutdown(c.Ctx) },
		"Close":             func(c clients) { c.Server.Close() },
		"Close in Shutdown": func(c clients) { go c.Server.Shutdown(c.Ctx); c.Server.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			var got calls
			cfg := forward.Config{Hooks: got.Hooks()}
			inBubble(t, cfg, func(b *bubble) {
				end(clients{b, b.Publish("live/" + canary), b.Play("live/" + canary)})
				time.Sleep(20 * time.Second)
				synctest.Wait()
				require.Equal(b, map[string]int{"connect": 2, "publish": 1, "unpublish": 1, "play": 1, "stop": 1, "close": 2}, got.Get())
			})
		})
	}
}

// A refused request has no counterpart, but requests accepted before it have.
func TestHooksOfRefusedRequests(t *testing.T) {
	refusal := errors.New("no")
	for name, row := range map[string]struct {
		change func(cfg *forward.Config, got *calls)
		want   map[string]int
	}{
		"by OnConnect": {func(cfg *forward.Config, got *calls) {
			cfg.Hooks.OnConnect = func(context.Context, *forward.Request) error { return refusal }
		}, nil},
		"by OnPublish": {func(cfg *forward.Config, got *calls) {
			cfg.Hooks.OnPublish = func(context.Context, *forward.Request) error { return refusal }
		}, map[string]int{"connect": 1, "close": 1}},
		"by the resolver": {func(cfg *forward.Config, got *calls) {
			cfg.Resolver = forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) { return nil, refusal })
		}, map[string]int{"connect": 1, "publish": 1, "unpublish": 1, "close": 1}},
		"by a panic of the resolver": {func(cfg *forward.Config, got *calls) {
			cfg.Resolver = forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) { panic("p") })
		}, map[string]int{"connect": 1, "publish": 1, "unpublish": 1, "close": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var got calls
			cfg := forward.Config{Hooks: got.Hooks()}
			row.change(&cfg, &got)
			inBubble(t, cfg, func(b *bubble) {
				_, err := b.Client("live/" + canary).Publish(b.Ctx)
				require.NotEmpty(b, forwardtest.RefusalCode(err))
				time.Sleep(2 * time.Second)
				require.Equal(b, row.want, got.Get())
				require.Empty(b, b.Server.Sources())
				require.Zero(b, b.Server.Stats().Streams, "the name is free")
			})
		})
	}
}

// Close while a hook is still deciding: a client that it then accepts ends immediately,
// and the counterpart is called.
func TestCloseWhileHooksDecide(t *testing.T) {
	for _, name := range []string{"Close", "Shutdown"} {
		t.Run(name, func(t *testing.T) {
			var got calls
			cfg := forward.Config{Hooks: got.Hooks()}
			var decide chan struct{}
			accept := cfg.Hooks.OnPublish
			cfg.Hooks.OnPublish = func(ctx context.Context, req *forward.Request) error {
				<-decide
				return accept(ctx, req)
			}
			inBubble(t, cfg, func(b *bubble) {
				decide = make(chan struct{})
				inside := make(chan error, 1)
				go func() {
					_, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "in"})
					inside <- err
				}()
				go b.Client("live/" + canary).Publish(b.Ctx)
				synctest.Wait()
				closed := make(chan error, 1)
				go func() {
					if name == "Shutdown" {
						closed <- b.Server.Shutdown(b.Ctx)
					} else {
						closed <- b.Server.Close()
					}
				}()
				synctest.Wait()
				require.Empty(b, closed, "it waits for the host's code")
				close(decide)
				require.NoError(b, <-closed)
				require.Error(b, <-inside)
				require.Equal(b, map[string]int{"connect": 1, "publish": 2, "unpublish": 2, "close": 1}, got.Get())
			})
		})
	}
}

// The context of hooks and resolver ends with the Server, also for a publisher
// inside the process.
func TestContextOfHooksEndsWithTheServer(t *testing.T) {
	cfg := forward.Config{Resolver: forward.ResolverFunc(func(ctx context.Context, _ *forward.Request) ([]forward.Destination, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})}
	inBubble(t, cfg, func(b *bubble) {
		inside := make(chan error, 1)
		go func() {
			_, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "in"})
			inside <- err
		}()
		go b.Client("live/" + canary).Publish(b.Ctx)
		synctest.Wait()
		began := time.Now()
		require.NoError(b, b.Server.Close())
		require.Error(b, <-inside)
		require.Zero(b, time.Since(began))
	})
}

// ServeConn returns when everything that the connection started has ended: the drain of
// its destinations, and the hooks.
func TestServeConnReturnsLast(t *testing.T) {
	var hook chan struct{}
	cfg := forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary), WriteTimeout: time.Hour, Hooks: forward.Hooks{
		OnUnpublish: func(context.Context, *forward.Request) { <-hook },
	}}
	inBubble(t, cfg, func(b *bubble) {
		hook = make(chan struct{})
		d := b.Destination("a:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}})
		c, result := b.Served("live/" + canary)
		pub, err := c.Publish(b.Ctx)
		require.NoError(b, err)
		b.Published(d, 1)
		require.NoError(b, pub.Send(b.Ctx, steady.Messages(3*time.Second), 1))
		src := b.Server.Source("live/" + canary)
		pub.Close()
		time.Sleep(4900 * time.Millisecond)
		require.Empty(b, result, "the destination drains")
		require.Nil(b, b.Server.Source("live/"+canary), "the name is free")
		time.Sleep(time.Second)
		require.Empty(b, result, "the hook runs")
		require.Empty(b, src.Forwarders())
		close(hook)
		require.NoError(b, <-result)
		<-src.Done()
	})
	inBubble(t, forward.Config{}, func(b *bubble) {
		ctx, cancel := context.WithCancel(b.Ctx)
		near, far := forwardtest.Pipe()
		defer near.Close()
		result := make(chan error, 1)
		go func() { result <- b.Server.ServeConn(ctx, far) }()
		synctest.Wait()
		cancel()
		require.NoError(b, <-result, "ctx ends it")
	})
}

// A panic in a host's connection ends that connection, whatever it waits for.
func TestPanicsOfAConnection(t *testing.T) {
	for name, until := range map[string]func(b *bubble, c forwardtest.Client) net.Conn{
		"for the first byte": func(b *bubble, c forwardtest.Client) net.Conn {
			nc, err := c.Dial(b.Ctx, "", "")
			require.NoError(b, err)
			return nc
		},
		"for the handshake": func(b *bubble, c forwardtest.Client) net.Conn {
			nc, err := c.Dial(b.Ctx, "", "")
			require.NoError(b, err)
			_, err = nc.Write([]byte{3})
			require.NoError(b, err)
			return nc
		},
		"for a player": func(b *bubble, c forwardtest.Client) (nc net.Conn) {
			dial := c.Dial
			c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				var err error
				nc, err = dial(ctx, network, addr)
				return nc, err
			}
			_, err := c.Play(b.Ctx, nil)
			require.NoError(b, err)
			return nc
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			inBubble(t, forward.Config{Logger: secretscan.Logger(slog.NewTextHandler(&log, nil))}, func(b *bubble) {
				far := new(panickingConn)
				result := make(chan error, 1)
				c := b.Client("live/s")
				c.Dial = func(context.Context, string, string) (near net.Conn, err error) {
					near, far.Conn = forwardtest.Pipe()
					go func() { result <- b.Server.ServeConn(context.Background(), far) }()
					return near, nil
				}
				nc := until(b, c)
				defer nc.Close()
				synctest.Wait()
				require.Empty(b, result)
				far.armed.Store(true)
				nc.Write([]byte{3})
				require.Error(b, <-result)
				require.Zero(b, b.Server.Stats().Connections)
				require.Contains(b, log.String(), "boom")
			})
		})
	}
}

// panickingConn panics at the next read after it is armed.
type panickingConn struct {
	net.Conn
	armed atomic.Bool
}

func (c *panickingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.armed.Load() {
		panic("boom")
	}
	return n, err
}

// A panic of the host's code ends the operation it was called for. The stack is logged.
func TestPanicsOfTheHost(t *testing.T) {
	// armed makes the host's code panic for every stream except live/ok.
	boom := func(name string) {
		if name != "live/ok" {
			panic("boom")
		}
	}
	for name, arm := range map[string]func(cfg *forward.Config){
		"OnConnect": func(cfg *forward.Config) {
			cfg.Hooks.OnConnect = func(_ context.Context, r *forward.Request) error { boom("live/" + r.PageURL); return nil }
		},
		"OnPublish": func(cfg *forward.Config) {
			cfg.Hooks.OnPublish = func(_ context.Context, r *forward.Request) error { boom(r.Name()); return nil }
		},
		"OnUnpublish": func(cfg *forward.Config) {
			cfg.Hooks.OnUnpublish = func(_ context.Context, r *forward.Request) { boom(r.Name()) }
		},
		"OnPlay": func(cfg *forward.Config) {
			cfg.Hooks.OnPlay = func(_ context.Context, r *forward.Request) error { boom(r.Name()); return nil }
		},
		"OnStop": func(cfg *forward.Config) {
			cfg.Hooks.OnStop = func(_ context.Context, r *forward.Request) { boom(r.Name()) }
		},
		"OnClose": func(cfg *forward.Config) {
			cfg.Hooks.OnClose = func(context.Context, *forward.Request, uint64, uint64) { panic("boom") }
		},
		"OnForward": func(cfg *forward.Config) {
			cfg.Hooks.OnForward = func(*forward.Forwarder, forward.State, error) { panic("boom") }
		},
		"Resolver": func(cfg *forward.Config) {
			cfg.Resolver = forward.ResolverFunc(func(_ context.Context, r *forward.Request) ([]forward.Destination, error) {
				boom(r.Name())
				return nil, nil
			})
		},
		"Dial": func(cfg *forward.Config) {
			cfg.Dial = func(context.Context, string, string) (net.Conn, error) { panic("boom") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			cfg := forward.Config{Logger: secretscan.Logger(slog.NewTextHandler(&log, nil)), Resolver: forward.ResolverFunc(func(_ context.Context, r *forward.Request) ([]forward.Destination, error) {
				if r.Stream == "ok" {
					return nil, nil
				}
				return []forward.Destination{{URL: "rtmp://a/live/" + canary}}, nil
			})}
			arm(&cfg)
			if name == "OnConnect" { // it does not know the stream
				ok := cfg.Hooks.OnConnect
				n := 0
				cfg.Hooks.OnConnect = func(ctx context.Context, r *forward.Request) error {
					if n++; n <= 2 {
						return nil
					}
					return ok(ctx, r)
				}
			}
			inBubble(t, cfg, func(b *bubble) {
				others := b.Steady()
				if pub, err := b.Client("live/" + canary).Publish(b.Ctx); err == nil {
					if play, err := b.Client("live/"+canary).Play(b.Ctx, nil); err == nil {
						pub.Send(b.Ctx, steady.Messages(3*time.Second), 1)
						play.Close()
					}
					pub.Close()
				}
				time.Sleep(2 * time.Second)
				require.Nil(b, b.Server.Source("live/"+canary))
				require.Zero(b, others.Check())
			})
			require.Contains(t, log.String(), "panic in host code")
			require.Contains(t, log.String(), "server_test.go", "the stack")
		})
	}
}

// A hanging hook delays only its client.
func TestHooksThatHang(t *testing.T) {
	hang := func(context.Context) { time.Sleep(time.Minute) }
	cfg := forward.Config{Hooks: forward.Hooks{OnPublish: func(ctx context.Context, r *forward.Request) error {
		if r.Stream != "ok" {
			hang(ctx)
		}
		return nil
	}}}
	inBubble(t, cfg, func(b *bubble) {
		others := b.Steady()
		results := make(chan error, 3)
		for _, name := range []string{"live/a", "live/b", "live/a"} {
			go func() {
				p, err := b.Client(name).Publish(b.Ctx)
				if err == nil {
					p.Close()
				}
				results <- err
			}()
			synctest.Wait()
		}
		require.Equal(b, "NetStream.Publish.BadName", forwardtest.RefusalCode(<-results), "the name is taken meanwhile")
		time.Sleep(59 * time.Second)
		require.Empty(b, results)
		require.NoError(b, <-results)
		require.NoError(b, <-results)
		require.Zero(b, others.Check())
	})
}

// A player switches to another channel on the message stream that it plays on, and an
// encoder releases a name by the id of its message stream.
func TestClientsChangeTheirStreams(t *testing.T) {
	inBubble(t, forward.Config{}, func(b *bubble) {
		first := b.Publish("live/one")
		second := b.Publish("live/two")
		require.NoError(b, first.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Payload: rtmptest.Frame(true, 1)}))
		require.NoError(b, second.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Payload: rtmptest.Frame(true, 2)}))
		synctest.Wait()
		rec := &forwardtest.Recorder{Reference: []forwardtest.Message{}}
		p, err := b.Client("live/one").Play(b.Ctx, rec)
		require.NoError(b, err)
		defer p.Close()
		require.NoError(b, rec.WaitFrames(b.Ctx, 1))
		require.NoError(b, p.Send(1, "play", 0, nil, "two"))
		require.NoError(b, rec.WaitFrames(b.Ctx, 2))
		require.Equal(b, rtmptest.Frame(true, 2), rec.Messages()[len(rec.Messages())-1].Payload)

		_, err = first.Write([]byte(messageOf(3, 0, 20, 0, "\x02\x00\x0bcloseStream"+"\x00\x00\x00\x00\x00\x00\x00\x00\x00"+"\x05"+"\x00\x3f\xf0\x00\x00\x00\x00\x00\x00")))
		require.NoError(b, err)
		synctest.Wait()
		require.Nil(b, b.Server.Source("live/one"))
		again := b.Publish("live/one")
		defer again.Close()
	})
}
