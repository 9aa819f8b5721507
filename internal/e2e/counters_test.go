package e2e

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// counters are the monotonic values of a snapshot by name: all uint64 fields except
// gauges.
func counters(stats any, gauges ...string) map[string]uint64 {
	all := make(map[string]uint64)
	v := reflect.ValueOf(stats)
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Uint64 {
			all[v.Type().Field(i).Name] = v.Field(i).Uint()
		}
	}
	for _, g := range gauges {
		delete(all, g)
	}
	return all
}

// No counter ever falls, whatever happens to a stream, its publishers and destinations.
func TestCountersNeverFall(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			fault := func() forwardtest.Script {
				at := map[int]func(*forwardtest.Session){10 + rnd.IntN(90): (*forwardtest.Session).Reset}
				switch rnd.IntN(4) {
				case 0:
					return forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 200_000}}}
				case 1:
					return forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Rate: 100_000}}, At: at}
				case 2:
					return forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Rate: 60_000}}}
				default:
					return forwardtest.Script{At: at}
				}
			}
			cfg := forward.Config{
				Resolver: forward.MustStatic("rtmp://a/live/"+canary, "rtmp://b/live/"+canary), MaxLatency: 2 * time.Second, Takeover: true,
				PublishGrace: 2 * time.Second, WriteTimeout: 3 * time.Second, DrainTimeout: 2 * time.Second,
				Backoff: forward.Backoff{Min: 100 * time.Millisecond, Max: time.Second},
			}
			inBubble(t, cfg, func(b *bubble) {
				for _, at := range []string{"a:1935", "b:1935", "c:1935"} {
					b.Destination(at, fault(), fault(), fault(), fault(), fault())
				}
				least := make(map[any]map[string]uint64)
				sum := make(map[string]uint64)
				check := func(of any, now map[string]uint64) {
					b.Helper()
					for name, n := range now {
						require.GreaterOrEqual(b, n, least[of][name], name)
						sum[name] = max(sum[name], n)
					}
					least[of] = now
				}
				sample := func() {
					for of := range least {
						switch of := of.(type) {
						case *forward.Source:
							check(of, counters(of.Stats()))
						case *forward.Forwarder:
							check(of, counters(of.Stats(), "Lag"))
						}
					}
					if src := b.Server.Source("live/s"); src != nil {
						check(src, counters(src.Stats()))
						for _, f := range src.Forwarders() {
							check(f, counters(f.Stats(), "Lag"))
						}
					}
					check(b.Server, counters(b.Server.Stats()))
				}
				stop := make(chan struct{})
				sampled := make(chan struct{})
				go func() {
					defer close(sampled)
					for {
						sample()
						select {
						case <-stop:
							return
						case <-time.After(70 * time.Millisecond):
						}
					}
				}()
				var pub *forwardtest.Publisher
				for range 12 {
					again, err := b.Client("live/s").Publish(b.Ctx)
					require.NoError(b, err)
					done := make(chan struct{})
					lasts := time.Duration(1+rnd.IntN(5)) * time.Second
					go func() {
						defer close(done)
						again.Send(b.Ctx, bitrate(2_000_000).Messages(lasts), 1)
					}()
					if src := b.Server.Source("live/s"); src != nil {
						if fs := src.Forwarders(); len(fs) > 0 && rnd.IntN(2) == 0 {
							go fs[rnd.IntN(len(fs))].Update(b.Ctx, forward.Destination{URL: "rtmp://c/live", StreamKey: canary})
						}
					}
					<-done
					if pub != nil {
						pub.Close()
					}
					if pub = again; rnd.IntN(2) == 0 {
						pub.Vanish()
					}
				}
				pub.Close()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				close(stop)
				<-sampled
				sample()
				for _, name := range []string{"Bytes", "Messages", "DroppedLate", "Accepted"} {
					require.Positive(b, sum[name], "%s: the test shows nothing", name)
				}
			})
		})
	}
}
