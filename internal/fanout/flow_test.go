package fanout

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The bytes that a publisher may append before it must ask again are limited by receivers
// that are up to date, and by those that join next.
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

// The publisher does not wait for a receiver that has failed for a second, nor for a player
// if other receivers keep up. The host's subscriptions count like destinations.
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

// blocked accepts nothing until it is closed.
type blocked struct{ *void }

func (blocked) Write([]byte) (int, error) { time.Sleep(time.Minute); return 0, nil }
