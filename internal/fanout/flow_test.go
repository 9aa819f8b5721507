package fanout

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What may come until a publisher has to look again is bounded by who is up to
// date, and by who comes next.
func TestRoomIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 16 << 20
		s := newStream(limit)
		g := NewGroup(s.log, NewPool())
		require.Equal(t, limit/4, g.Room(0), "nobody is there")
		snd := newSender(new(void), time.Minute)
		g.Add(snd, options, end)
		s.frame(100)
		g.Wake()
		synctest.Wait()
		require.Equal(t, limit/4, g.Room(0), "one is up to date")
		require.Equal(t, 512<<10, g.Room(1e6), "of media that comes faster than it plays")
		snd.Close()
		snd.Wait()
	})
}

// Whom nobody reads is not waited for: a receiver that has failed for a second, or
// a player where others keep up. The host's subscriptions count as destinations do.
func TestRoomIsOfWhoKeepsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStream(1 << 20)
		g := NewGroup(s.log, NewPool())
		s.frame(100)
		tap := g.Tap()
		player := newSender(blocked{new(void)}, time.Hour)
		player.SetPlayer()
		g.Add(player, options, end)
		feed := func(d time.Duration, read bool) {
			for range d / (50 * time.Millisecond) {
				s.now = Clock()
				s.frame(2000)
				g.Wake()
				g.Meter(Clock(), func(int64) float64 { return 40_000 })
				for read {
					if m, _ := tap.cursor.Read(); m == nil {
						break
					} else {
						tap.bytes.Add(uint64(m.Frame.Len()))
					}
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		feed(3*time.Second, true)
		require.Equal(t, 1<<20/4, g.Room(0), "the player is not waited for")
		feed(time.Second/2, false)
		require.Less(t, g.Room(0), 1<<20/4, "the subscription is")
		feed(3*time.Second, false)
		require.Equal(t, 1<<20/4, g.Room(0), "nobody is")
		player.Close()
		player.Wait()
		tap.Close()
	})
}

// blocked takes nothing until it is closed.
type blocked struct{ *void }

func (blocked) Write([]byte) (int, error) { time.Sleep(time.Minute); return 0, nil }
