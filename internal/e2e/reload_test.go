package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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

// Of 20 destinations 10 are replaced: the others get every frame on their existing
// connection, new ones start with headers and a keyframe.
func TestReloadTouchesOnlyWhatDiffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dest, got := watch(t)
		cfg := forward.Config{Resolver: &fakeResolver{Dests: numbered(0, 20)}, Dial: dialTo(dest), MergeWindow: -1}
		s := newServer(t, cfg)
		p := publish(t, s, "live", canary)
		synctest.Wait()
		begin(t, p)
		feed(t, p, 0, 15)
		kept := p.Source().Forwarders()[10:]

		cfg.Logger = quiet
		cfg.Resolver = &fakeResolver{Dests: numbered(10, 30)}
		require.NoError(t, s.Reload(cfg))
		synctest.Wait()
		feed(t, p, 15, 40)
		now := p.Source().Forwarders()
		require.Len(t, now, 20)
		require.Subset(t, now, kept, "the very same forwarders")
		for _, f := range kept {
			require.Equal(t, uint64(1), f.Stats().Connects)
		}
		for i := range 30 {
			frames, before, ended := got.of(fmt.Sprintf("%02d", i))
			switch {
			case i < 10:
				require.Equal(t, sequence(0, 15), frames, i)
				require.True(t, ended)
			case i < 20:
				require.Equal(t, sequence(0, 40), frames, i)
				require.False(t, ended)
			default:
				require.Equal(t, sequence(10, 40), frames, i)
				require.Len(t, before, 2)
			}
		}
	})
}

// Existing destinations stay while a new resolver fails. It is asked again.
func TestReloadWithResolverThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dest, _ := watch(t)
		var warned atomic.Int64
		log := logtest.Count(&warned, slog.LevelWarn, "")
		cfg := forward.Config{Resolver: &fakeResolver{Dests: numbered(0, 2)}, Dial: dialTo(dest), Logger: log}
		s := newServer(t, cfg)
		p := publish(t, s, "live", canary)
		synctest.Wait()
		before := p.Source().Forwarders()
		require.Len(t, before, 2)

		r := &fakeResolver{Err: errors.New("no answer")}
		cfg.Resolver = r
		require.NoError(t, s.Reload(cfg))
		synctest.Wait()
		require.Equal(t, before, p.Source().Forwarders())
		require.Equal(t, 1, r.Count())
		require.Equal(t, int64(1), warned.Load())
		for _, f := range before {
			require.Equal(t, uint64(1), f.Stats().Connects)
		}

		r.Set(func(r *fakeResolver) { r.Err, r.Dests = nil, numbered(1, 3) })
		time.Sleep(70 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"rtmp://dest/live/01", "rtmp://dest/live/02"}, urls(p.Source().Forwarders()))
		time.Sleep(time.Hour)
		require.Equal(t, 2, r.Count(), "it has answered")
	})
}

// The hooks that accepted a client are called at its end.
func TestReloadKeepsHooksOfAcceptedClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		hooks := func(name string) forward.Hooks {
			return forward.Hooks{
				OnPublish:   func(context.Context, *forward.Request) error { told = append(told, name+" publish"); return nil },
				OnUnpublish: func(context.Context, *forward.Request) { told = append(told, name+" unpublish") },
			}
		}
		s := newServer(t, forward.Config{Hooks: hooks("old")})
		p := publish(t, s, "live", canary)
		require.NoError(t, s.Reload(forward.Config{Hooks: hooks("new"), Logger: quiet}))
		p.Close()
		<-p.Source().Done()
		p = publish(t, s, "live", canary)
		p.Close()
		<-p.Source().Done()
		require.Equal(t, []string{"old publish", "old unpublish", "new publish", "new unpublish"}, told)
	})
}

// The same holds for a publisher that continues the stream of another.
func TestReloadKeepsHooksOfANextPublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		cfg := func(name string) forward.Config {
			return forward.Config{Takeover: true, Logger: quiet, Hooks: forward.Hooks{
				OnPublish:   func(context.Context, *forward.Request) error { told = append(told, name+" publish"); return nil },
				OnUnpublish: func(context.Context, *forward.Request) { told = append(told, name+" unpublish") },
			}}
		}
		s := newServer(t, cfg("old"))
		p := publish(t, s, "live", canary)
		begin(t, p)
		require.NoError(t, s.Reload(cfg("new")))
		next := publish(t, s, "live", canary)
		begin(t, next)
		feed(t, next, 0, 1)
		synctest.Wait()
		require.Same(t, p.Source(), next.Source())
		require.Equal(t, []string{"old publish", "new publish", "old unpublish"}, told)
		require.NoError(t, s.Reload(forward.Config{Takeover: true, Logger: quiet}))
		next.Close()
		<-p.Source().Done()
		require.Equal(t, "new unpublish", told[len(told)-1])
		require.Len(t, told, 4)
	})
}

func TestReloadKeepsHooksOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		tell := func(what string) error {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, what)
			return nil
		}
		hooks := func(name string) forward.Hooks {
			return forward.Hooks{
				OnConnect: func(context.Context, *forward.Request) error { return tell(name + " connect") },
				OnClose:   func(context.Context, *forward.Request, uint64, uint64) { tell(name + " close") },
				OnPlay:    func(context.Context, *forward.Request) error { return tell(name + " play") },
				OnStop:    func(context.Context, *forward.Request) { tell(name + " stop") },
			}
		}
		s := newServer(t, forward.Config{Hooks: hooks("old")})
		player, err := forwardtest.Client{Dial: forwardtest.Direct(s)}.Play(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, s.Reload(forward.Config{Hooks: hooks("new"), Logger: quiet}))
		player.Close()
		synctest.Wait()
		require.Equal(t, []string{"old connect", "old play", "old stop", "old close"}, told)
	})
}

// A client that connected earlier must authenticate when it publishes.
func TestReloadOfPublishAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, forward.Config{})
		client := forwardtest.Client{Dial: forwardtest.Direct(s)}
		pub, err := client.Publish(t.Context())
		require.NoError(t, err)
		pub.Close()
		synctest.Wait()

		require.NoError(t, s.Reload(forward.Config{Logger: quiet, PublishAuth: func(string) (forward.Secret, bool) { return "", false }}))
		_, err = client.Publish(t.Context())
		require.Error(t, err)
		require.NotEmpty(t, forwardtest.RefusalCode(err))

		require.NoError(t, s.Reload(forward.Config{Logger: quiet}))
		pub, err = client.Publish(t.Context())
		require.NoError(t, err)
		pub.Close()
		synctest.Wait()
	})
}

func TestReloadClosesStreamsOfVhostsThatAreGone(t *testing.T) {
	for name, tt := range map[string]struct {
		old, now map[string]forward.Vhost
		closed   bool
	}{
		"removed":              {map[string]forward.Vhost{"v": {}}, map[string]forward.Vhost{"w": {}}, true},
		"disabled":             {map[string]forward.Vhost{"v": {}}, map[string]forward.Vhost{"v": {Disabled: true}}, true},
		"served as another":    {map[string]forward.Vhost{"v": {}}, map[string]forward.Vhost{forward.DefaultVhost: {}}, true},
		"default is gone":      {map[string]forward.Vhost{forward.DefaultVhost: {}}, map[string]forward.Vhost{"w": {}}, true},
		"listed now":           {nil, map[string]forward.Vhost{"v": {ChunkSize: 4096}}, false},
		"as before":            {map[string]forward.Vhost{forward.DefaultVhost: {}}, map[string]forward.Vhost{forward.DefaultVhost: {}, "w": {}}, false},
		"kept":                 {map[string]forward.Vhost{"v": {}, "w": {}}, map[string]forward.Vhost{"v": {}}, false},
		"all are served now":   {map[string]forward.Vhost{"v": {}}, nil, false},
		"never was, by itself": {map[string]forward.Vhost{"w": {}}, map[string]forward.Vhost{"u": {}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t, forward.Config{Vhosts: tt.old})
				p, err := s.Publish(t.Context(), forward.Request{Vhost: "v", App: "live", Stream: canary})
				require.NoError(t, err)
				defer p.Close()
				require.NoError(t, s.Reload(forward.Config{Vhosts: tt.now, Logger: quiet}))
				synctest.Wait()
				err = p.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader)
				if tt.closed {
					require.ErrorIs(t, err, forward.ErrKicked)
					<-p.Source().Done()
				} else {
					require.NoError(t, err)
				}
			})
		})
	}
}

// Players of a removed vhost are told and disconnected, whether they play, wait for a
// publisher, have paused, or are being accepted. Others are not disturbed.
func TestReloadDisconnectsPlayersOfVhostsThatAreGone(t *testing.T) {
	for _, state := range []string{"playing", "waiting", "paused", "being accepted"} {
		t.Run(state, func(t *testing.T) {
			two := map[string]forward.Vhost{"v": {}, "w": {}}
			var asked, answer chan struct{}
			cfg := forward.Config{Vhosts: two, Hooks: forward.Hooks{OnPlay: func(_ context.Context, req *forward.Request) error {
				if state == "being accepted" && req.Vhost == "v" {
					close(asked)
					<-answer
				}
				return nil
			}}}
			inBubble(t, cfg, func(b *bubble) {
				asked, answer = make(chan struct{}), make(chan struct{})
				client := func(vhost string) forwardtest.Client {
					return forwardtest.Client{URL: "rtmp://" + vhost + "/live/" + canary, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
						return b.Net.Dial(ctx, network, "server:1935")
					}}
				}
				play := func(vhost string) *forwardtest.Player {
					p, err := client(vhost).Play(b.Ctx, nil)
					require.NoError(b, err)
					b.Cleanup(func() { p.Close() })
					return p
				}
				if state != "waiting" {
					pub, err := client("v").Publish(b.Ctx)
					require.NoError(b, err)
					defer pub.Close()
					require.NoError(b, pub.Send(b.Ctx, steady.Messages(time.Second), 1))
				}
				kept := play("w")
				result := make(chan *forwardtest.Player)
				go func() { result <- play("v") }()
				var gone *forwardtest.Player
				if state == "being accepted" {
					<-asked
				} else {
					gone = <-result
				}
				if state == "paused" {
					require.NoError(b, gone.Send(1, "pause", 0, nil, true, 0))
				}
				synctest.Wait()
				next := b.Config
				next.Vhosts = map[string]forward.Vhost{"w": {}}
				require.NoError(b, b.Server.Reload(next))
				if state == "being accepted" {
					close(answer)
					gone = <-result
				}
				began := time.Now()
				select {
				case <-gone.Done():
				case <-time.After(time.Minute):
				}
				require.Zero(b, time.Since(began))
				require.Equal(b, "NetStream.Play.Failed", forwardtest.RefusalCode(gone.Err()))
				time.Sleep(2 * lingerTime)
				require.Equal(b, 1, b.Server.Stats().Connections, "whether it closes or not")

				require.NoError(b, kept.Err())
				pub, err := client("w").Publish(b.Ctx)
				require.NoError(b, err)
				defer pub.Close()
				require.NoError(b, pub.Send(b.Ctx, steady.Messages(time.Second), 1))
				require.NoError(b, kept.Recorder().WaitFrames(b.Ctx, 10))
				_, err = client("v").Play(b.Ctx, nil)
				require.Equal(b, "NetStream.Play.StreamNotFound", forwardtest.RefusalCode(err))
			})
		})
	}
}

// A publish that waits for its backend during the Reload is handled too.
func TestReloadDuringPublish(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprintf("vhost gone %v", gone), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dest, _ := watch(t)
				slow := forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
					time.Sleep(time.Second)
					return numbered(0, 1), nil
				})
				cfg := forward.Config{Dial: dialTo(dest), Logger: quiet, Vhosts: map[string]forward.Vhost{forward.DefaultVhost: {Resolver: slow}}}
				s := newServer(t, cfg)
				time.AfterFunc(time.Second/2, func() {
					cfg.Vhosts = map[string]forward.Vhost{forward.DefaultVhost: {Resolver: &fakeResolver{Dests: numbered(1, 2)}, Disabled: gone}}
					if err := s.Reload(cfg); err != nil {
						t.Error(err)
					}
				})
				p, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: canary})
				if gone {
					require.ErrorContains(t, err, "no such vhost")
					require.Empty(t, s.Sources())
					return
				}
				require.NoError(t, err)
				synctest.Wait()
				require.Equal(t, []string{"rtmp://dest/live/01"}, urls(p.Source().Forwarders()))
				p.Close()
			})
		})
	}
}
