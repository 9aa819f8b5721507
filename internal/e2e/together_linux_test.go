package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
)

// descriptors returns the number of this process's descriptors, by kind.
func descriptors(t *testing.T) map[string]int {
	const dir = "/proc/self/fd"
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	kinds := make(map[string]int)
	for _, n := range names {
		if link, err := os.Readlink(filepath.Join(dir, n.Name())); err == nil {
			if strings.HasPrefix(link, "socket:") {
				link = "socket"
			}
			kinds[link]++
		}
	}
	return kinds
}

// Publishers that are read together leave Go's poller for one of their own. No message is
// lost, however they end, and no descriptor is left after Close.
func TestPublishersReadTogether(t *testing.T) {
	const n, speed = 16, 10
	d := destinationOf(t, discarding)
	const poller = "anon_inode:[eventpoll]"
	before := descriptors(t) // the test is not parallel, so there are no others
	lo := onLoopback(t, forward.Config{Resolver: forward.MustStatic(d.URL("live/[stream]")), MergeWindow: -1})
	ctx, stop := context.WithCancel(lo.ctx)
	defer stop()
	var sending sync.WaitGroup
	ends := make(chan string, n)
	for i := range n {
		name := fmt.Sprint("live/s", i)
		pub := lo.publish(name)
		media := steady
		media.ID = uint32(i + 1)
		sending.Go(func() {
			sent := uint64(0)
			for m := range media.Messages(time.Hour) {
				if err := pub.Send(lo.ctx, slices.Values([]forwardtest.Message{m}), speed); err != nil {
					ends <- fmt.Sprint(name, ": ", err)
					return
				}
				if m.Type != forwardtest.TypeData && len(m.Payload) >= 64 { // a frame, no header
					sent++
				}
				if ctx.Err() != nil {
					break
				}
			}
			if i%2 == 0 {
				pub.Unpublish()
			}
			pub.Close()
			ends <- fmt.Sprint(sent)
		})
	}
	together, began := false, time.Now()
	lo.await("a poller", func() bool {
		together = descriptors(t)[poller] > before[poller]
		return together || time.Since(began) > 10*time.Second
	})
	time.AfterFunc(time.Second, stop)
	sending.Wait()
	total := 0
	for range n {
		end := <-ends
		sent := 0
		_, err := fmt.Sscan(end, &sent)
		require.NoError(t, err, end)
		total += sent
	}
	got := 0
	for i := range n {
		s, err := d.WaitSession(lo.ctx, i+1)
		require.NoError(t, err)
		_, err = s.WaitCommand(lo.ctx, "deleteStream")
		require.NoError(t, err)
		require.NoError(t, s.Recorder().Err())
		r := s.Recorder().Report()
		require.Zero(t, r.Missing)
		got += int(r.Last) // the first ones came before the destination
	}
	require.Equal(t, total, got)
	require.NoError(t, lo.srv.Close())
	require.NoError(t, d.Close())
	lo.await("the end of all descriptors", func() bool {
		now := descriptors(t)
		return now[poller] == before[poller] && now["socket"] < before["socket"]
	})
	// Reading together begins at a fifth of the rate at which these publishers send. With the
	// race detector they are slower.
	if !hosttest.RaceDetector() {
		require.True(t, together)
	}
}
