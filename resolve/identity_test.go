package resolve

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/stretchr/testify/require"
)

// Vhosts have no case in a pattern either, and are captured as they are.
func TestRoutesOfAVhostInAnyCase(t *testing.T) {
	a := &forward.Request{Vhost: "studio.example", App: "live", Stream: "cam"}
	b := &forward.Request{Vhost: forward.DefaultVhost, App: "studio.example/live", Stream: "cam"}
	c := &forward.Request{Vhost: "Studio.Example", App: "live", Stream: "cam"}
	routes, err := Routes(FirstMatch, Route{Vhost: "STUDIO.*", To: []string{"rtmp://a/$1/k"}}, Route{Vhost: "~Studio[.]e.*", To: []string{"rtmp://b/x/k"}}, Route{To: []string{"rtmp://c/x/k"}})
	require.NoError(t, err)
	for r, want := range map[*forward.Request]string{a: "rtmp://a/example", b: "rtmp://c/x", c: "rtmp://a/Example"} {
		ds, err := routes.ResolveDestinations(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, want, ds[0].URL)
	}
}

// What a backend has answered about one vhost is not given out for another.
func TestAnswersOfTwoVhostsAreKeptApart(t *testing.T) {
	studio := &forward.Request{Vhost: "studio.example", App: "live", Stream: "cam"}
	spelled := &forward.Request{Vhost: "STUDIO.example", App: "live", Stream: "cam"}
	others := []*forward.Request{
		{Vhost: forward.DefaultVhost, App: "studio.example/live", Stream: "cam"},
		{App: "live", Stream: "cam"},
		{Vhost: "other.example", App: "live", Stream: "cam"},
	}

	down := false
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, `{"code":0,"data":{"urls":["rtmp://192.0.2.1/studio/only"]}}`)
	}))
	defer backend.Close()
	lastGood := &HTTP{URL: backend.URL, OnFailure: LastGood, Logger: quiet}
	_, err := lastGood.ResolveDestinations(t.Context(), studio)
	require.NoError(t, err)
	down = true
	ds, err := lastGood.ResolveDestinations(t.Context(), spelled)
	require.NoError(t, err)
	require.Len(t, ds, 1)

	asked := 0
	cached := Cached(forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
		asked++
		return nil, nil
	}), time.Hour)
	for _, r := range []*forward.Request{studio, spelled} {
		_, err := cached.ResolveDestinations(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, 1, asked)
	}
	for i, r := range others {
		_, err := lastGood.ResolveDestinations(t.Context(), r)
		require.ErrorContains(t, err, "no earlier answer", r.Name())
		_, err = cached.ResolveDestinations(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, 2+i, asked, r.Name())
	}
}
