package resolve

import (
	"errors"
	"strings"
	"testing"

	"github.com/rtmp-forward/forward"
	"github.com/stretchr/testify/require"
)

func TestFromParam(t *testing.T) {
	r := FromParam("forward", "127.0.0.1:19351", "*.example.com", "edge-*.net:*", "10.0.0.0/24", "[2001:db8::1]:1936", "fd00::/8:1936")
	for param, want := range map[string]string{
		"":        "",
		"?":       "",
		"?x=rtmp": "",
		"?forward=rtmp://127.0.0.1:19351/test/livestream":                    "rtmp://127.0.0.1:19351/test/livestream",
		"?a=b&forward=rtmp://a.b.example.com/t/k&c=d":                        "rtmp://a.b.example.com/t/k",
		"?forward=rtmps://A.EXAMPLE.com.:443/t/k":                            "rtmps://A.EXAMPLE.com.:443/t/k",
		"?forward=rtmp%3A%2F%2Fedge-1.net%3A1%2Fa%2Fk%3Fx%3D1%26y%3D2+%2B":   "rtmp://edge-1.net:1/a/k?x=1&y=2++",
		"?forward=rtmp://10.0.0.255/t/k":                                     "rtmp://10.0.0.255/t/k",
		"?forward=rtmp://[::ffff:10.0.0.1]/t/k":                              "rtmp://[::ffff:10.0.0.1]/t/k",
		"?forward=rtmp://[2001:db8::1]:1936/t/k":                             "rtmp://[2001:db8::1]:1936/t/k",
		"?forward=rtmp://[fd00::1]:1936/t/k":                                 "rtmp://[fd00::1]:1936/t/k",
		"?forward=rtmp://a.example.com/t/k&forward=rtmp://a.example.com/t/k": "rtmp://a.example.com/t/k",
	} {
		ds, err := r.ResolveDestinations(t.Context(), &forward.Request{Param: param})
		require.NoError(t, err, param)
		if want == "" {
			require.Empty(t, ds, param)
			continue
		}
		require.Equal(t, []forward.Destination{{URL: want, Untrusted: true}}, ds, param)
	}
}

func TestFromParamRefuses(t *testing.T) {
	r := FromParam("forward", "127.0.0.1:19351", "*.example.com", "edge-*.net:*", "10.0.0.0/24", "10.0.0.0/99", "192.168.*.1")
	for param, refused := range map[string]bool{
		"?forward=rtmp://127.0.0.1/t/" + canary:                               true,
		"?forward=rtmp://127.0.0.1:22/t/" + canary:                            true,
		"?forward=rtmp://example.com/t/" + canary:                             true,
		"?forward=rtmp://a.example.com:22/t/" + canary:                        true,
		"?forward=rtmp://a.example.com.evil.org/t/" + canary:                  true,
		"?forward=rtmp://edge-1.evil.net:1/t/" + canary:                       true,
		"?forward=rtmp://10.0.1.1/t/" + canary:                                true,
		"?forward=rtmp://10.0.0.1.evil.org/t/" + canary:                       true,
		"?forward=rtmp://192.168.evil.org.1/t/" + canary:                      true,
		"?forward=rtmp://a.example.com@evil.org/t/" + canary:                  true,
		"?forward=rtmp://a.example.com/t/k&forward=rtmp://h/t/" + canary:      true,
		"?forward=" + canary:                                                  false,
		"?forward=http://a.example.com/t/" + canary:                           false,
		"?forward=rtmp://a.example.com/" + canary:                             false,
		"?forward=rtmp://a.example.com/t/" + canary + "%zz":                   false,
		"?" + strings.Repeat("forward=rtmp://a.example.com/t/"+canary+"&", 9): false,
	} {
		ds, err := r.ResolveDestinations(t.Context(), &forward.Request{Param: param})
		require.Error(t, err, param)
		require.Equal(t, refused, errors.Is(err, forward.ErrRefused), param)
		require.NotContains(t, err.Error(), canary)
		require.Empty(t, ds)
	}
	_, err := FromParam("forward").ResolveDestinations(t.Context(), &forward.Request{Param: "?forward=rtmp://h/a/k"})
	require.ErrorIs(t, err, forward.ErrRefused, "an empty list allows nothing")
	_, err = FromParam("forward", "*").ResolveDestinations(t.Context(), &forward.Request{Param: "?forward=rtmp://h/a/k"})
	require.NoError(t, err)
}
