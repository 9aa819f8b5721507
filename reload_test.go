package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// Of 20 destinations 10 are replaced: the others get every frame on the
// connection they have, the new ones begin with headers and a keyframe.
func TestReloadTouchesOnlyWhatDiffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dest, got := watch(t)
		cfg := Config{Resolver: &fakeResolver{dests: numbered(0, 20)}, Dial: dialTo(dest), MergeWindow: -1}
		s := newServer(t, cfg)
		p := publish(t, s, "live", canary)
		synctest.Wait()
		begin(t, p)
		feed(t, p, 0, 15)
		kept := p.Source().Forwarders()[10:]

		cfg.Logger = quiet
		cfg.Resolver = &fakeResolver{dests: numbered(10, 30)}
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

func TestReloadOfWrongConfigChangesNothing(t *testing.T) {
	r := &fakeResolver{}
	s := newServer(t, Config{Resolver: r})
	before := s.Settings()
	require.ErrorContains(t, s.Reload(Config{ChunkSize: 1}), "ChunkSize is 1")
	require.Same(t, before, s.Settings())

	s.Close()
	require.ErrorIs(t, s.Reload(Config{}), ErrServerClosed)
	require.Same(t, before, s.Settings())

	wrong := NewServer(Config{ChunkSize: 1})
	defer wrong.Close()
	require.ErrorContains(t, wrong.Reload(Config{}), "ChunkSize is 1")
}

func TestReloadNamesWhatNeedsARestart(t *testing.T) {
	var log strings.Builder
	cfg := Config{Logger: secretscan.Logger(slog.NewTextHandler(&log, nil))}
	s := newServer(t, cfg)
	require.NoError(t, s.Reload(cfg))
	require.Empty(t, log.String())
	require.NoError(t, s.Reload(Config{Addr: ":1936", Logger: quiet}))
	require.Contains(t, log.String(), `fields="[Addr Logger]"`)
	require.Equal(t, ":1935", s.Settings().Addr)
}

// What runs stays while a new resolver fails, and it is asked again.
func TestReloadWithResolverThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dest, _ := watch(t)
		var warned atomic.Int64
		log := logtest.Count(&warned, slog.LevelWarn, "")
		cfg := Config{Resolver: &fakeResolver{dests: numbered(0, 2)}, Dial: dialTo(dest), Logger: log}
		s := newServer(t, cfg)
		p := publish(t, s, "live", canary)
		synctest.Wait()
		before := p.Source().Forwarders()
		require.Len(t, before, 2)

		r := &fakeResolver{err: errors.New("no answer")}
		cfg.Resolver = r
		require.NoError(t, s.Reload(cfg))
		synctest.Wait()
		require.Equal(t, before, p.Source().Forwarders())
		require.Equal(t, 1, r.count())
		require.Equal(t, int64(1), warned.Load())
		for _, f := range before {
			require.Equal(t, uint64(1), f.Stats().Connects)
		}

		r.set(func(r *fakeResolver) { r.err, r.dests = nil, numbered(1, 3) })
		time.Sleep(70 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"rtmp://dest/live/01", "rtmp://dest/live/02"}, urls(p.Source().Forwarders()))
		time.Sleep(time.Hour)
		require.Equal(t, 2, r.count(), "it has answered")
	})
}

// A resolver that is the same is not asked, whatever else has changed.
func TestReloadAsksOnlyOtherResolvers(t *testing.T) {
	one := &fakeResolver{}
	ofFunc := ResolverFunc(func(context.Context, *PublishRequest) ([]Destination, error) { return nil, nil })
	for _, tt := range []struct {
		name string
		a, b DestinationResolver
		same bool
	}{
		{"the same pointer", one, one, true},
		{"another pointer", &fakeResolver{}, &fakeResolver{}, false},
		{"the same entries", MustStatic("a", "rtmp://b/c"), MustStatic("a", "rtmp://b/c"), true},
		{"another order", MustStatic("a", "b"), MustStatic("b", "a"), false},
		{"functions", ofFunc, ofFunc, false},
		{"other types", MustStatic("a"), ofFunc, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.same, SameResolver(tt.a, tt.b))
			require.Equal(t, tt.same, SameResolver(tt.b, tt.a))
		})
	}

	synctest.Test(t, func(t *testing.T) {
		r := &fakeResolver{}
		s := newServer(t, Config{Resolver: r})
		p := publish(t, s, "live", canary)
		require.NoError(t, s.Reload(Config{Resolver: r, Logger: quiet, ReadTimeout: time.Minute}))
		synctest.Wait()
		require.Equal(t, 1, r.count())
		require.NoError(t, s.Reload(Config{Resolver: r, Logger: quiet, RefreshInterval: time.Minute}))
		synctest.Wait()
		require.Equal(t, 2, r.count())
		time.Sleep(70 * time.Second)
		require.Equal(t, 3, r.count())
		require.NoError(t, s.Reload(Config{Resolver: r, Logger: quiet}))
		synctest.Wait()
		time.Sleep(time.Hour)
		require.Equal(t, 4, r.count(), "asked at the reload, and no more")
		p.Close()
	})
}

// An accepted client's end is told to the hooks that have accepted it.
func TestReloadLeavesTheEndToTheHooksOfTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		hooks := func(name string) Hooks {
			return Hooks{
				OnPublish:   func(context.Context, *PublishRequest) error { told = append(told, name+" publish"); return nil },
				OnUnpublish: func(context.Context, *PublishRequest) { told = append(told, name+" unpublish") },
			}
		}
		s := newServer(t, Config{Hooks: hooks("old")})
		p := publish(t, s, "live", canary)
		require.NoError(t, s.Reload(Config{Hooks: hooks("new"), Logger: quiet}))
		p.Close()
		<-p.Source().Done()
		p = publish(t, s, "live", canary)
		p.Close()
		<-p.Source().Done()
		require.Equal(t, []string{"old publish", "old unpublish", "new publish", "new unpublish"}, told)
	})
}

// So it is where a publisher goes on with a stream that others have begun.
func TestReloadLeavesANextPublisherToItsHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		cfg := func(name string) Config {
			return Config{Takeover: true, Logger: quiet, Hooks: Hooks{
				OnPublish:   func(context.Context, *PublishRequest) error { told = append(told, name+" publish"); return nil },
				OnUnpublish: func(context.Context, *PublishRequest) { told = append(told, name+" unpublish") },
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
		require.NoError(t, s.Reload(Config{Takeover: true, Logger: quiet}))
		next.Close()
		<-p.Source().Done()
		require.Equal(t, "new unpublish", told[len(told)-1])
		require.Len(t, told, 4)
	})
}

func TestReloadLeavesAConnectionToItsHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		tell := func(what string) error {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, what)
			return nil
		}
		hooks := func(name string) Hooks {
			return Hooks{
				OnConnect: func(context.Context, *ConnectRequest) error { return tell(name + " connect") },
				OnClose:   func(context.Context, *ConnectRequest) { tell(name + " close") },
				OnPlay:    func(context.Context, *PlayRequest) error { return tell(name + " play") },
				OnStop:    func(context.Context, *PlayRequest) { tell(name + " stop") },
			}
		}
		s := newServer(t, Config{Hooks: hooks("old")})
		player, err := forwardtest.Client{Dial: forwardtest.Direct(s)}.Play(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, s.Reload(Config{Hooks: hooks("new"), Logger: quiet}))
		player.Close()
		synctest.Wait()
		require.Equal(t, []string{"old connect", "old play", "old stop", "old close"}, told)
	})
}

// Who has connected before must prove who he is when he publishes.
func TestReloadOfPublishAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, Config{})
		client := forwardtest.Client{Dial: forwardtest.Direct(s)}
		pub, err := client.Publish(t.Context())
		require.NoError(t, err)
		pub.Close()
		synctest.Wait()

		require.NoError(t, s.Reload(Config{Logger: quiet, PublishAuth: func(string) (Secret, bool) { return "", false }}))
		_, err = client.Publish(t.Context())
		require.Error(t, err)
		require.NotEmpty(t, forwardtest.RefusalCode(err))

		require.NoError(t, s.Reload(Config{Logger: quiet}))
		pub, err = client.Publish(t.Context())
		require.NoError(t, err)
		pub.Close()
		synctest.Wait()
	})
}

func TestReloadClosesStreamsOfVhostsThatAreGone(t *testing.T) {
	for name, tt := range map[string]struct {
		old, now map[string]Vhost
		closed   bool
	}{
		"removed":              {map[string]Vhost{"v": {}}, map[string]Vhost{"w": {}}, true},
		"disabled":             {map[string]Vhost{"v": {}}, map[string]Vhost{"v": {Disabled: true}}, true},
		"served as another":    {map[string]Vhost{"v": {}}, map[string]Vhost{DefaultVhost: {}}, true},
		"default is gone":      {map[string]Vhost{DefaultVhost: {}}, map[string]Vhost{"w": {}}, true},
		"listed now":           {nil, map[string]Vhost{"v": {ChunkSize: 4096}}, false},
		"as before":            {map[string]Vhost{DefaultVhost: {}}, map[string]Vhost{DefaultVhost: {}, "w": {}}, false},
		"kept":                 {map[string]Vhost{"v": {}, "w": {}}, map[string]Vhost{"v": {}}, false},
		"all are served now":   {map[string]Vhost{"v": {}}, nil, false},
		"never was, by itself": {map[string]Vhost{"w": {}}, map[string]Vhost{"u": {}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t, Config{Vhosts: tt.old})
				p, err := s.Publish(t.Context(), PublishRequest{Vhost: "v", App: "live", Stream: canary})
				require.NoError(t, err)
				defer p.Close()
				require.NoError(t, s.Reload(Config{Vhosts: tt.now, Logger: quiet}))
				synctest.Wait()
				err = p.WriteTag(TagVideo, 0, rtmptest.VideoHeader)
				if tt.closed {
					require.ErrorIs(t, err, ErrKicked)
					<-p.Source().Done()
				} else {
					require.NoError(t, err)
				}
			})
		})
	}
}

// Whoever plays from a vhost that is gone, waits there for a publisher, has
// paused, or is being accepted, is told and disconnected. Others are not
// disturbed.
func TestReloadDisconnectsPlayersOfVhostsThatAreGone(t *testing.T) {
	for _, state := range []string{"playing", "waiting", "paused", "being accepted"} {
		t.Run(state, func(t *testing.T) {
			two := map[string]Vhost{"v": {}, "w": {}}
			var asked, answer chan struct{}
			cfg := Config{Vhosts: two, Hooks: Hooks{OnPlay: func(_ context.Context, req *PlayRequest) error {
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
						return b.net.Dial(ctx, network, "server:1935")
					}}
				}
				play := func(vhost string) *forwardtest.Player {
					p, err := client(vhost).Play(b.ctx, nil)
					require.NoError(b, err)
					b.Cleanup(func() { p.Close() })
					return p
				}
				if state != "waiting" {
					pub, err := client("v").Publish(b.ctx)
					require.NoError(b, err)
					defer pub.Close()
					require.NoError(b, pub.Send(b.ctx, steady.Messages(time.Second), 1))
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
				next := b.cfg
				next.Vhosts = map[string]Vhost{"w": {}}
				require.NoError(b, b.srv.Reload(next))
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
				require.Equal(b, 1, b.srv.Stats().Connections, "whether it closes or not")

				require.NoError(b, kept.Err())
				pub, err := client("w").Publish(b.ctx)
				require.NoError(b, err)
				defer pub.Close()
				require.NoError(b, pub.Send(b.ctx, steady.Messages(time.Second), 1))
				require.NoError(b, kept.Recorder().WaitFrames(b.ctx, 10))
				_, err = client("v").Play(b.ctx, nil)
				require.Equal(b, "NetStream.Play.StreamNotFound", forwardtest.RefusalCode(err))
			})
		})
	}
}

// A publish that waits for its backend meanwhile is not forgotten.
func TestReloadDuringPublish(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprintf("vhost gone %v", gone), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dest, _ := watch(t)
				slow := ResolverFunc(func(context.Context, *PublishRequest) ([]Destination, error) {
					time.Sleep(time.Second)
					return numbered(0, 1), nil
				})
				cfg := Config{Dial: dialTo(dest), Logger: quiet, Vhosts: map[string]Vhost{DefaultVhost: {Resolver: slow}}}
				s := newServer(t, cfg)
				time.AfterFunc(time.Second/2, func() {
					cfg.Vhosts = map[string]Vhost{DefaultVhost: {Resolver: &fakeResolver{dests: numbered(1, 2)}, Disabled: gone}}
					if err := s.Reload(cfg); err != nil {
						t.Error(err)
					}
				})
				p, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: canary})
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
