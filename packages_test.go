package forward_test

import (
	"net/http"
	"reflect"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
)

func init() {
	forward.ControlHandler = func(s *forward.Server, token forward.Secret) http.Handler {
		h, err := control.Handler(s, control.Options{Tokens: []forward.Secret{token}})
		if err != nil {
			panic(err)
		}
		return h
	}
	forward.TypesBeside = append(forward.TypesBeside, reflect.TypeFor[control.Options]())
}
