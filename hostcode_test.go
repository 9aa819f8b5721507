package forward

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// Nothing follows the end of the log, regardless of how and when it ends.
func TestNothingIsAppendedAfterTheEnd(t *testing.T) {
	s := newServer(t, Config{MergeWindow: -1})
	for i := range 300 {
		p := publish(t, s, "live", fmt.Sprint("s", i))
		log := p.Source().log
		writing, over := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(over)
			for n := 0; p.WriteTag(TagVideo, uint32(n), rtmptest.Frame(n%10 == 0, n)) == nil; n++ {
				if n == i%7 {
					close(writing)
				}
				if n > 5000 {
					return
				}
			}
		}()
		<-writing
		go p.Source().Shutdown(context.Background())
		for !log.Ended() {
			runtime.Gosched()
		}
		head, messages := log.Head(), p.Source().Stats().Messages
		<-over
		require.Equal(t, head, log.Head())
		require.Equal(t, messages, p.Source().Stats().Messages)
	}
}
