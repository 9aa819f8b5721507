package forward

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func names(s interface{ Commands() []forwardtest.Command }) (out []string) {
	for _, c := range s.Commands() {
		out = append(out, c.Name)
	}
	return out
}

// Shutdown sends what is left, tells everybody, and waits for nobody who has
// nothing to get.
func TestShutdown(t *testing.T) {
	cfg := Config{Resolver: MustStatic("rtmp://a/live/"+canary, "rtmp://b/live/"+canary)}
	inBubble(t, cfg, func(b *bubble) {
		dests := []*forwardtest.Destination{b.destination("a:1935"), b.destination("b:1935")}
		pub := b.publish("live/" + canary)
		var sessions []*forwardtest.Session
		for _, d := range dests {
			sessions = append(sessions, b.published(d, 1))
		}
		player, paused, waiting := b.play("live/"+canary), b.play("live/"+canary), b.play("live/none")
		paused.Send(1, "pause", 0, nil, true, 0)
		c, idle := b.served("live/idle")
		c.StopBefore = "connect"
		_, err := c.Publish(b.ctx)
		require.NoError(b, err)
		require.NoError(b, pub.Send(b.ctx, steady.Messages(3*time.Second), 1))
		// This has only just arrived, inside the merge window.
		require.NoError(b, pub.WriteMessage(forwardtest.Message{Type: TagVideo, Timestamp: 3000, Payload: rtmptest.Frame(true, 1)}))
		synctest.Wait()
		src := b.srv.Source("live/" + canary)

		began := time.Now()
		require.NoError(b, b.srv.Shutdown(b.ctx))
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
		_, err = player.WaitCommand(b.ctx, "onStatus")
		require.NoError(b, err)
		commands := player.Commands()
		require.Equal(b, "NetStream.Play.UnpublishNotify", commands[len(commands)-1].Code())
		<-paused.Done()
		<-waiting.Done()
		<-pub.Done()

		_, err = b.client("live/" + canary).Publish(b.ctx)
		require.ErrorIs(b, err, syscall.ECONNREFUSED, "nobody listens")
		_, err = b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: canary})
		require.ErrorIs(b, err, ErrServerClosed)
		_, theirs := forwardtest.Pipe()
		require.ErrorIs(b, b.srv.ServeConn(b.ctx, theirs), ErrServerClosed)
		require.NoError(b, b.srv.Shutdown(b.ctx), "again")
		require.NoError(b, b.srv.Close())
	})
}

// Who does not take what is left gets no more than the time for it.
func TestShutdownWithStalledPeers(t *testing.T) {
	stalled := forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}}
	for _, row := range []struct {
		name  string
		drain time.Duration
		limit time.Duration // of ctx
		want  error
		after time.Duration
	}{
		{"DrainTimeout", 0, time.Hour, nil, 5 * time.Second},
		{"DrainTimeout of 1 s", time.Second, time.Hour, nil, time.Second},
		{"ctx", time.Hour, 2 * time.Second, context.DeadlineExceeded, 2 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := Config{Resolver: MustStatic("rtmp://a/live/" + canary), DrainTimeout: row.drain, WriteTimeout: 2 * time.Hour}
			inBubble(t, cfg, func(b *bubble) {
				d := b.destination("a:1935", stalled)
				pub := b.publish("live/" + canary)
				b.published(d, 1)
				require.NoError(b, pub.Send(b.ctx, steady.Messages(3*time.Second), 1))
				synctest.Wait() // all of it is read: Shutdown need not look for more
				ctx, cancel := context.WithTimeout(b.ctx, row.limit)
				defer cancel()
				began := time.Now()
				require.ErrorIs(b, b.srv.Shutdown(ctx), row.want)
				require.Equal(b, row.after, time.Since(began))
				require.NoError(b, b.srv.Close())
				require.Equal(b, row.after, time.Since(began), "Close takes no time")
			})
		})
	}
}

// calls counts the calls of hooks by name.
type calls struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *calls) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[name]++
}

func (c *calls) get() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

func (c *calls) hooks() Hooks {
	return Hooks{
		OnConnect:   func(context.Context, *ConnectRequest) error { c.add("connect"); return nil },
		OnPublish:   func(context.Context, *PublishRequest) error { c.add("publish"); return nil },
		OnUnpublish: func(context.Context, *PublishRequest) { c.add("unpublish") },
		OnPlay:      func(context.Context, *PlayRequest) error { c.add("play"); return nil },
		OnStop:      func(context.Context, *PlayRequest) { c.add("stop") },
		OnClose:     func(context.Context, *ConnectRequest) { c.add("close") },
	}
}

// Each accepted hook is followed by its counterpart once, however it ends.
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
		"kicked":            func(c clients) { c.srv.Source("live/" + canary).Close(); c.play.Close() },
		"kicked twice":      func(c clients) { s := c.srv.Source("live/" + canary); s.Close(); s.Close(); c.play.Close() },
		"no media":          func(c clients) { time.Sleep(time.Minute); c.play.Close() },
		"broken protocol":   func(c clients) { c.pub.Write(rtmptest.SetChunkSize(0)); c.play.Write(rtmptest.SetChunkSize(0)) },
		"Shutdown":          func(c clients) { c.srv.Shutdown(c.ctx) },
		"Close":             func(c clients) { c.srv.Close() },
		"Close in Shutdown": func(c clients) { go c.srv.Shutdown(c.ctx); c.srv.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			var got calls
			cfg := Config{Hooks: got.hooks()}
			inBubble(t, cfg, func(b *bubble) {
				end(clients{b, b.publish("live/" + canary), b.play("live/" + canary)})
				time.Sleep(20 * time.Second)
				synctest.Wait()
				require.Equal(b, map[string]int{"connect": 2, "publish": 1, "unpublish": 1, "play": 1, "stop": 1, "close": 2}, got.get())
			})
		})
	}
}

// What is refused has no counterpart, but what was accepted before has.
func TestHooksOfWhatIsRefused(t *testing.T) {
	refusal := errors.New("no")
	for name, row := range map[string]struct {
		change func(cfg *Config, got *calls)
		want   map[string]int
	}{
		"by OnConnect": {func(cfg *Config, got *calls) {
			cfg.Hooks.OnConnect = func(context.Context, *ConnectRequest) error { return refusal }
		}, nil},
		"by OnPublish": {func(cfg *Config, got *calls) {
			cfg.Hooks.OnPublish = func(context.Context, *PublishRequest) error { return refusal }
		}, map[string]int{"connect": 1, "close": 1}},
		"by the resolver": {func(cfg *Config, got *calls) {
			cfg.Resolver = ResolverFunc(func(context.Context, *PublishRequest) ([]Destination, error) { return nil, refusal })
		}, map[string]int{"connect": 1, "publish": 1, "unpublish": 1, "close": 1}},
		"by a panic of the resolver": {func(cfg *Config, got *calls) {
			cfg.Resolver = ResolverFunc(func(context.Context, *PublishRequest) ([]Destination, error) { panic("p") })
		}, map[string]int{"connect": 1, "publish": 1, "unpublish": 1, "close": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var got calls
			cfg := Config{Hooks: got.hooks()}
			row.change(&cfg, &got)
			inBubble(t, cfg, func(b *bubble) {
				_, err := b.client("live/" + canary).Publish(b.ctx)
				require.NotEmpty(b, forwardtest.RefusalCode(err))
				time.Sleep(2 * time.Second)
				require.Equal(b, row.want, got.get())
				require.Empty(b, b.srv.Sources())
				require.Zero(b, b.srv.Stats().Streams, "the name is free")
			})
		})
	}
}

// Close while a hook is still deciding: what it accepts then is over at once,
// and its counterpart is called.
func TestCloseWhileHooksDecide(t *testing.T) {
	for _, name := range []string{"Close", "Shutdown"} {
		t.Run(name, func(t *testing.T) {
			var got calls
			cfg := Config{Hooks: got.hooks()}
			var decide chan struct{}
			accept := cfg.Hooks.OnPublish
			cfg.Hooks.OnPublish = func(ctx context.Context, req *PublishRequest) error {
				<-decide
				return accept(ctx, req)
			}
			inBubble(t, cfg, func(b *bubble) {
				decide = make(chan struct{})
				inside := make(chan error, 1)
				go func() {
					_, err := b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: "in"})
					inside <- err
				}()
				go b.client("live/" + canary).Publish(b.ctx)
				synctest.Wait()
				closed := make(chan error, 1)
				go func() {
					if name == "Shutdown" {
						closed <- b.srv.Shutdown(b.ctx)
					} else {
						closed <- b.srv.Close()
					}
				}()
				synctest.Wait()
				require.Empty(b, closed, "it waits for the host's code")
				close(decide)
				require.NoError(b, <-closed)
				require.Error(b, <-inside)
				require.Equal(b, map[string]int{"connect": 1, "publish": 2, "unpublish": 2, "close": 1}, got.get())
			})
		})
	}
}

// The context of hooks and resolver ends with the Server, also for a publisher
// inside the process.
func TestContextOfHooksEndsWithTheServer(t *testing.T) {
	cfg := Config{Resolver: ResolverFunc(func(ctx context.Context, _ *PublishRequest) ([]Destination, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})}
	inBubble(t, cfg, func(b *bubble) {
		inside := make(chan error, 1)
		go func() {
			_, err := b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: "in"})
			inside <- err
		}()
		go b.client("live/" + canary).Publish(b.ctx)
		synctest.Wait()
		began := time.Now()
		require.NoError(b, b.srv.Close())
		require.Error(b, <-inside)
		require.Zero(b, time.Since(began))
	})
}

// ServeConn returns when all that the connection started has ended: the drain
// of its destinations, and the hooks.
func TestServeConnReturnsLast(t *testing.T) {
	var hook chan struct{}
	cfg := Config{Resolver: MustStatic("rtmp://a/live/" + canary), WriteTimeout: time.Hour, Hooks: Hooks{
		OnUnpublish: func(context.Context, *PublishRequest) { <-hook },
	}}
	inBubble(t, cfg, func(b *bubble) {
		hook = make(chan struct{})
		d := b.destination("a:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}})
		c, result := b.served("live/" + canary)
		pub, err := c.Publish(b.ctx)
		require.NoError(b, err)
		b.published(d, 1)
		require.NoError(b, pub.Send(b.ctx, steady.Messages(3*time.Second), 1))
		src := b.srv.Source("live/" + canary)
		pub.Close()
		time.Sleep(4900 * time.Millisecond)
		require.Empty(b, result, "the destination drains")
		require.Nil(b, b.srv.Source("live/"+canary), "the name is free")
		time.Sleep(time.Second)
		require.Empty(b, result, "the hook runs")
		require.Empty(b, src.Forwarders())
		close(hook)
		require.NoError(b, <-result)
		<-src.Done()
	})
	inBubble(t, Config{}, func(b *bubble) {
		ctx, cancel := context.WithCancel(b.ctx)
		near, far := forwardtest.Pipe()
		defer near.Close()
		result := make(chan error, 1)
		go func() { result <- b.srv.ServeConn(ctx, far) }()
		synctest.Wait()
		cancel()
		require.NoError(b, <-result, "ctx ends it")
	})
}

// A panic in a connection of the host's ends that one, whatever it waits for.
func TestPanicsOfAConnection(t *testing.T) {
	for name, until := range map[string]func(b *bubble, c forwardtest.Client) net.Conn{
		"for the first byte": func(b *bubble, c forwardtest.Client) net.Conn {
			nc, err := c.Dial(b.ctx, "", "")
			require.NoError(b, err)
			return nc
		},
		"for the handshake": func(b *bubble, c forwardtest.Client) net.Conn {
			nc, err := c.Dial(b.ctx, "", "")
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
			_, err := c.Play(b.ctx, nil)
			require.NoError(b, err)
			return nc
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			inBubble(t, Config{Logger: secretscan.Logger(slog.NewTextHandler(&log, nil))}, func(b *bubble) {
				far := new(panickingConn)
				result := make(chan error, 1)
				c := b.client("live/s")
				c.Dial = func(context.Context, string, string) (near net.Conn, err error) {
					near, far.Conn = forwardtest.Pipe()
					go func() { result <- b.srv.ServeConn(context.Background(), far) }()
					return near, nil
				}
				nc := until(b, c)
				defer nc.Close()
				synctest.Wait()
				require.Empty(b, result)
				far.armed.Store(true)
				nc.Write([]byte{3})
				require.Error(b, <-result)
				require.Zero(b, b.srv.Stats().Connections)
				require.Contains(b, log.String(), "boom")
			})
		})
	}
}

// panickingConn panics when it has read something while it is armed.
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

// A panic of the host's code ends what it was called for. Its stack is logged.
func TestPanicsOfTheHost(t *testing.T) {
	// armed is when the host's code panics, if the stream is not live/ok.
	boom := func(name string) {
		if name != "live/ok" {
			panic("boom")
		}
	}
	for name, arm := range map[string]func(cfg *Config){
		"OnConnect": func(cfg *Config) {
			cfg.Hooks.OnConnect = func(_ context.Context, r *ConnectRequest) error { boom("live/" + r.PageURL); return nil }
		},
		"OnPublish": func(cfg *Config) {
			cfg.Hooks.OnPublish = func(_ context.Context, r *PublishRequest) error { boom(r.Name()); return nil }
		},
		"OnUnpublish": func(cfg *Config) {
			cfg.Hooks.OnUnpublish = func(_ context.Context, r *PublishRequest) { boom(r.Name()) }
		},
		"OnPlay": func(cfg *Config) {
			cfg.Hooks.OnPlay = func(_ context.Context, r *PlayRequest) error { boom(r.Name()); return nil }
		},
		"OnStop":  func(cfg *Config) { cfg.Hooks.OnStop = func(_ context.Context, r *PlayRequest) { boom(r.Name()) } },
		"OnClose": func(cfg *Config) { cfg.Hooks.OnClose = func(context.Context, *ConnectRequest) { panic("boom") } },
		"OnForward": func(cfg *Config) {
			cfg.Hooks.OnForward = func(*Forwarder, State, error) { panic("boom") }
		},
		"Resolver": func(cfg *Config) {
			cfg.Resolver = ResolverFunc(func(_ context.Context, r *PublishRequest) ([]Destination, error) { boom(r.Name()); return nil, nil })
		},
		"Dial": func(cfg *Config) {
			cfg.Dial = func(context.Context, string, string) (net.Conn, error) { panic("boom") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			cfg := Config{Logger: secretscan.Logger(slog.NewTextHandler(&log, nil)), Resolver: ResolverFunc(func(_ context.Context, r *PublishRequest) ([]Destination, error) {
				if r.Stream == "ok" {
					return nil, nil
				}
				return []Destination{{URL: "rtmp://a/live/" + canary}}, nil
			})}
			arm(&cfg)
			if name == "OnConnect" { // it does not know the stream
				ok := cfg.Hooks.OnConnect
				n := 0
				cfg.Hooks.OnConnect = func(ctx context.Context, r *ConnectRequest) error {
					if n++; n <= 2 {
						return nil
					}
					return ok(ctx, r)
				}
			}
			inBubble(t, cfg, func(b *bubble) {
				others := b.steady()
				if pub, err := b.client("live/" + canary).Publish(b.ctx); err == nil {
					if play, err := b.client("live/"+canary).Play(b.ctx, nil); err == nil {
						pub.Send(b.ctx, steady.Messages(3*time.Second), 1)
						play.Close()
					}
					pub.Close()
				}
				time.Sleep(2 * time.Second)
				require.Nil(b, b.srv.Source("live/"+canary))
				require.Zero(b, others.check())
			})
			require.Contains(t, log.String(), "panic in host code")
			require.Contains(t, log.String(), "server_test.go", "the stack")
		})
	}
}

// A hook that hangs holds its client and nobody else.
func TestHooksThatHang(t *testing.T) {
	hang := func(context.Context) { time.Sleep(time.Minute) }
	cfg := Config{Hooks: Hooks{OnPublish: func(ctx context.Context, r *PublishRequest) error {
		if r.Stream != "ok" {
			hang(ctx)
		}
		return nil
	}}}
	inBubble(t, cfg, func(b *bubble) {
		others := b.steady()
		results := make(chan error, 3)
		for _, name := range []string{"live/a", "live/b", "live/a"} {
			go func() {
				p, err := b.client(name).Publish(b.ctx)
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
		require.Zero(b, others.check())
	})
}

// A player goes to another channel on the stream that it plays, and an encoder
// gives a name free by the id of its stream.
func TestClientsChangeTheirStreams(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		first := b.publish("live/one")
		second := b.publish("live/two")
		require.NoError(b, first.WriteMessage(forwardtest.Message{Type: TagVideo, Payload: rtmptest.Frame(true, 1)}))
		require.NoError(b, second.WriteMessage(forwardtest.Message{Type: TagVideo, Payload: rtmptest.Frame(true, 2)}))
		synctest.Wait()
		rec := &forwardtest.Recorder{Reference: []forwardtest.Message{}}
		p, err := b.client("live/one").Play(b.ctx, rec)
		require.NoError(b, err)
		defer p.Close()
		require.NoError(b, rec.WaitFrames(b.ctx, 1))
		require.NoError(b, p.Send(1, "play", 0, nil, "two"))
		require.NoError(b, rec.WaitFrames(b.ctx, 2))
		require.Equal(b, rtmptest.Frame(true, 2), rec.Messages()[len(rec.Messages())-1].Payload)

		_, err = first.Write([]byte(messageOf(3, 0, 20, 0, "\x02\x00\x0bcloseStream"+"\x00\x00\x00\x00\x00\x00\x00\x00\x00"+"\x05"+"\x00\x3f\xf0\x00\x00\x00\x00\x00\x00")))
		require.NoError(b, err)
		synctest.Wait()
		require.Nil(b, b.srv.Source("live/one"))
		again := b.publish("live/one")
		defer again.Close()
	})
}
