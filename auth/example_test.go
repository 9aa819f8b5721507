package auth_test

import (
	"fmt"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/auth"
)

// A URL for one stream and an hour.
func ExampleToken() {
	token := auth.Token{Secrets: []forward.Secret{"current", "previous"}, Purpose: "publish"}
	query, _ := token.Sign("live/livestream", time.Now().Add(time.Hour))

	good := &forward.Request{App: "live", Stream: "livestream", Param: "?" + query}
	stolen := &forward.Request{App: "live", Stream: "other", Param: "?" + query}
	fmt.Println(token.Verify(good))
	fmt.Println(token.Verify(stolen))
	// Output:
	// <nil>
	// auth: token refused: parameter sign is wrong
}
