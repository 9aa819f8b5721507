package forward

import (
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// A destination that reads slowly gets the rest behind the end of the stream.
func TestDraining(t *testing.T) {
	for name, end := range map[string]func(b *bubble, p *forwardtest.Publisher, f *Forwarder){
		"unpublish":                 func(_ *bubble, p *forwardtest.Publisher, _ *Forwarder) { p.Close() },
		"Shutdown of the Source":    func(b *bubble, _ *forwardtest.Publisher, f *Forwarder) { go f.Source().Shutdown(b.ctx) },
		"Shutdown":                  func(b *bubble, _ *forwardtest.Publisher, _ *Forwarder) { go b.srv.Shutdown(b.ctx) },
		"Shutdown of the Forwarder": func(b *bubble, _ *forwardtest.Publisher, f *Forwarder) { go f.Shutdown(b.ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			var lines logtest.Buffer
			var mu sync.Mutex
			var told []State
			cfg := Config{
				Resolver: MustStatic("rtmp://a/live/" + canary), Logger: secretscan.Logger(slog.NewTextHandler(&lines, nil)), DrainTimeout: time.Minute,
				Hooks: Hooks{OnForward: func(_ *Forwarder, s State, err error) {
					if s == StateDraining {
						time.Sleep(time.Second) // whoever ends the stream does not wait for it
					}
					mu.Lock()
					defer mu.Unlock()
					require.NoError(t, err)
					told = append(told, s)
				}},
			}
			inBubble(t, cfg, func(b *bubble) {
				d := b.destination("a:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Rate: 200_000}}})
				p := b.publish("live/s")
				s := b.published(d, 1)
				f := b.srv.Source("live/s").Forwarders()[0]
				require.NoError(b, p.Send(b.ctx, bitrate(4_000_000).Messages(2*time.Second), 0))
				synctest.Wait()
				require.Equal(b, StatePublishing, f.Stats().State)
				began := time.Now()
				end(b, p, f)
				require.Zero(b, time.Since(began))
				synctest.Wait()
				require.Equal(b, StateDraining, f.Stats().State)
				require.Equal(b, began, f.Stats().Since)
				<-f.Done()
				if name != "Shutdown of the Forwarder" { // which sends no more than the message it is at
					require.Greater(b, time.Since(began), 2*time.Second)
					require.NoError(b, s.Recorder().WaitFrames(b.ctx, 50))
				}
				require.Equal(b, StateClosed, f.Stats().State)
				require.Equal(b, []State{StateConnecting, StateHandshaking, StatePublishing, StateDraining, StateClosed}, told)
				require.Len(b, lines.Lines("destination draining"), 1)
				_, err := s.WaitCommand(b.ctx, "deleteStream")
				require.NoError(b, err)
			})
		})
	}
}

// One that is still being reached drains from when it is publishing; one that
// is not reached does not drain.
func TestDraining_EndsBeforePublishing(t *testing.T) {
	for _, step := range []forwardtest.Step{{Delay: time.Second}, {Silent: true}} {
		var told []State
		cfg := Config{Resolver: MustStatic("rtmp://a/live/" + canary), Hooks: Hooks{OnForward: func(_ *Forwarder, s State, _ error) {
			told = append(told, s)
		}}}
		want := []State{StateConnecting, StateHandshaking, StatePublishing, StateDraining, StateClosed}
		if step.Silent {
			want = []State{StateConnecting, StateHandshaking, StateClosed}
		}
		inBubble(t, cfg, func(b *bubble) {
			b.destination("a:1935", script("publish", step))
			p := b.publish("live/s")
			f := b.srv.Source("live/s").Forwarders()[0]
			require.NoError(b, p.Send(b.ctx, steady.Messages(200*time.Millisecond), 0))
			synctest.Wait()
			p.Close()
			synctest.Wait()
			require.Equal(b, StateHandshaking, f.Stats().State)
			<-f.Done()
			require.Equal(b, want, told)
		})
	}
}
