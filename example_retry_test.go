package forward_test

import (
	"fmt"
	"time"

	"github.com/rtmp-forward/forward"
)

// A key that is refused three times is tried no more, and what else is refused
// every 15 minutes.
func ExampleConfig_retry() {
	cfg := forward.Config{
		Retry: func(r forward.RetryInfo) time.Duration {
			switch {
			case r.Err.Code == "NetStream.Publish.BadName" && r.Attempt >= 3:
				return -1 // give up, until there is another key
			case !r.Err.Temporary():
				return 15 * time.Minute
			default:
				return 0 // as proposed: r.Delay
			}
		},
	}
	bad := &forward.DestinationError{Op: "publish", Code: "NetStream.Publish.BadName"}
	for attempt := 1; attempt <= 3; attempt++ {
		fmt.Println(cfg.Retry(forward.RetryInfo{Err: bad, Attempt: attempt}))
	}
	// Output:
	// 15m0s
	// 15m0s
	// -1ns
}
