package e2e

import (
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// A destination that reads slowly gets the rest after the end of the stream.
func TestDraining(t *testing.T) {
	for name, end := range map[string]func(b *bubble, p *forwardtest.Publisher, f *forward.Forwarder){
		"unpublish":                 func(_ *bubble, p *forwardtest.Publisher, _ *forward.Forwarder) { p.Close() },
		"Shutdown of the Source":    func(b *bubble, _ *forwardtest.Publisher, f *forward.Forwarder) { go f.Source().Shutdown(b.Ctx) },
		"Shutdown":                  func(b *bubble, _ *forwardtest.Publisher, _ *forward.Forwarder) { go b.Server.Shutdown(b.Ctx) },
		"Shutdown of the Forwarder": func(b *bubble, _ *forwardtest.Publisher, f *forward.Forwarder) { go f.Shutdown(b.Ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			var lines logtest.Buffer
			var mu sync.Mutex
			var told []forward.State
			cfg := forward.Config{
				Resolver: forward.MustStatic("rtmp://a/live/" + canary), Logger: secretscan.Logger(slog.NewTextHandler(&lines, nil)), DrainTimeout: time.Minute,
				Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, s forward.State, err error) {
					if s == forward.StateDraining {
						time.Sleep(time.Second) // the end of the stream does not wait for it
					}
					mu.Lock()
					defer mu.Unlock()
					require.NoError(t, err)
					told = append(told, s)
				}},
			}
			inBubble(t, cfg, func(b *bubble) {
				d := b.Destination("a:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Rate: 200_000}}})
				p := b.Publish("live/s")
				s := b.Published(d, 1)
				f := b.Server.Source("live/s").Forwarders()[0]
				require.NoError(b, p.Send(b.Ctx, bitrate(4_000_000).Messages(2*time.Second), 0))
				synctest.Wait()
				require.Equal(b, forward.StatePublishing, f.Stats().State)
				began := time.Now()
				end(b, p, f)
				require.Zero(b, time.Since(began))
				synctest.Wait()
				require.Equal(b, forward.StateDraining, f.Stats().State)
				require.Equal(b, began, f.Stats().Since)
				<-f.Done()
				if name != "Shutdown of the Forwarder" { // Close finishes only the current message
					require.Greater(b, time.Since(began), 2*time.Second)
					require.NoError(b, s.Recorder().WaitFrames(b.Ctx, 50))
				}
				require.Equal(b, forward.StateClosed, f.Stats().State)
				require.Equal(b, []forward.State{forward.StateConnecting, forward.StateHandshaking, forward.StatePublishing, forward.StateDraining, forward.StateClosed}, told)
				require.Len(b, lines.Lines("destination draining"), 1)
				_, err := s.WaitCommand(b.Ctx, "deleteStream")
				require.NoError(b, err)
			})
		})
	}
}

// A destination that is still connecting drains once it is publishing. One that cannot
// be reached does not drain.
func TestDraining_EndsBeforePublishing(t *testing.T) {
	for _, step := range []forwardtest.Step{{Delay: time.Second}, {Silent: true}} {
		var told []forward.State
		cfg := forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary), Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, s forward.State, _ error) {
			told = append(told, s)
		}}}
		want := []forward.State{forward.StateConnecting, forward.StateHandshaking, forward.StatePublishing, forward.StateDraining, forward.StateClosed}
		if step.Silent {
			want = []forward.State{forward.StateConnecting, forward.StateHandshaking, forward.StateClosed}
		}
		inBubble(t, cfg, func(b *bubble) {
			b.Destination("a:1935", script("publish", step))
			p := b.Publish("live/s")
			f := b.Server.Source("live/s").Forwarders()[0]
			require.NoError(b, p.Send(b.Ctx, steady.Messages(200*time.Millisecond), 0))
			synctest.Wait()
			p.Close()
			synctest.Wait()
			require.Equal(b, forward.StateHandshaking, f.Stats().State)
			<-f.Done()
			require.Equal(b, want, told)
		})
	}
}
