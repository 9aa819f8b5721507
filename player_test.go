package forward

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// A player may join from several goroutines at the same time, for example if it is unpaused
// when its stream ends. It becomes a receiver once, and keeps nothing of the stream
// afterwards.
func TestFault31_PlayerJoinsTwice(t *testing.T) {
	for name, join := range map[string]func(p *player, src *Source){
		"by its client and by an end": func(p *player, src *Source) { p.attach(src); p.join() },
		"stopped before it does": func(p *player, src *Source) {
			p.detach()
			p.attach(src)
			p.stopped.Store(false)
			p.join()
		},
		"stopped when it has": func(p *player, src *Source) { p.attach(src); p.detach(); p.attach(src) },
		"at once": func(p *player, src *Source) {
			var joins sync.WaitGroup
			for range 8 {
				joins.Go(func() {
					for range 100 {
						p.detach()
						p.stopped.Store(false)
						p.join()
					}
				})
			}
			joins.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t, Config{MemoryBudget: 64 << 20})
				play, err := forwardtest.Client{URL: "rtmp://h/live/s", Dial: forwardtest.Direct(s)}.Play(t.Context(), nil)
				require.NoError(t, err)
				pub, err := s.Publish(t.Context(), Request{App: "live", Stream: "s"})
				require.NoError(t, err)
				require.NoError(t, pub.WriteTag(TagVideo, 0, rtmptest.Frame(true, 0)))
				synctest.Wait()
				s.mu.Lock()
				var p *player
				for c := range s.conns {
					p = c.player
				}
				s.mu.Unlock()
				join(p, pub.Source())
				synctest.Wait()
				require.NoError(t, pub.Close())
				<-pub.Source().Done()
				synctest.Wait()
				require.Zero(t, s.Stats().Buffered)
				require.NoError(t, play.Close())
			})
		})
	}
}
