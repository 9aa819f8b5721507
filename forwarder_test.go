package forward

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// Replaced destinations leave nothing in memory: a host may replace one again and again while
// the stream lasts.
func TestUpdateKeepsNoneOfTheReplaced(t *testing.T) {
	const updates = 100
	synctest.Test(t, func(t *testing.T) {
		var network forwardtest.Network
		for _, address := range []string{"a:1935", "b:1935"} {
			d := network.NewDestination(address)
			defer d.Close()
		}
		p := publish(t, newServer(t, Config{MergeWindow: -1, Dial: network.Dial}), "live", canary)
		f, err := p.Source().Forward(Destination{URL: "rtmp://a/live", StreamKey: canary})
		require.NoError(t, err)
		require.NoError(t, p.WriteTag(TagVideo, 0, rtmptest.VideoHeader))
		feed := func(first, last int) {
			for n := first; n < last; n++ {
				require.NoError(t, p.WriteTag(TagVideo, uint32(n*40), rtmptest.Frame(n%10 == 0, n)))
				time.Sleep(40 * time.Millisecond)
			}
			synctest.Wait()
		}
		feed(0, 15)
		var replaced []weak.Pointer[target]
		for i := range updates {
			d := Destination{URL: fmt.Sprintf("rtmp://%c/live", "ba"[i%2]), StreamKey: canary, FlashVer: strconv.Itoa(i)}
			replaced = append(replaced, weak.Make(f.to.Load()))
			result := make(chan error, 1)
			go func() { result <- f.Update(t.Context(), d) }()
			synctest.Wait()
			feed(15+i*10, 25+i*10) // with a keyframe
			require.NoError(t, <-result)
			synctest.Wait()
		}
		require.Len(t, f.runs, 1)
		runtime.GC()
		kept := slices.DeleteFunc(replaced, func(w weak.Pointer[target]) bool { return w.Value() == nil })
		require.Less(t, len(kept), 5, "except those that stacks still hold")
	})
}
