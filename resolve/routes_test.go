package resolve

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/option"
	"github.com/stretchr/testify/require"
)

func TestRoutes(t *testing.T) {
	routes := []Route{
		{App: "live", Stream: "secret*"},
		{Vhost: "*.example", App: "*", Stream: "cam-??", To: []string{"rtmp://h/$1/$3$4-${2}0"}},
		{App: "~(?P<kind>live|vod)/(\\d+)", To: []string{"rtmp://h/${kind}?n=$2/[stream]$[param]", "[::1]:1936"}},
		{Stream: "~(?i)NEWS", To: []string{"rtmp://news/[app]/[stream]"}},
		{App: "live", To: []string{"rtmp://h/all/[stream]"}, Resolver: answering(time.Minute, nil, "rtmp://h/asked/x")},
		{Stream: "news", To: []string{"rtmp://h/all/[stream]"}, Resolver: answering(time.Second, nil)},
	}
	for _, tt := range []struct {
		name, vhost, app, stream, param string
		first, all                      []string // tcUrl + "|" + key
		ttl                             time.Duration
	}{
		{"a rule without destinations", "", "live", "secret1", "", nil, []string{"rtmp://h/asked|x", "rtmp://h/all|secret1"}, 0},
		{"globs capture", "a.example", "live/tv", "cam-01", "", []string{"rtmp://h/a|01-live/tv0"}, []string{"rtmp://h/a|01-live/tv0"}, 0},
		{"globs match the whole", "a.example.org", "x", "cam-01", "", nil, nil, 0},
		{"one character is one", "a.example", "x", "cam-012", "", nil, nil, 0},
		{"regular expression captures", "", "vod/12", "s", "?a", []string{"rtmp://h/vod?n=12|s$?a", "rtmp://[::1]:1936/vod/12|s?a"}, []string{"rtmp://h/vod?n=12|s$?a", "rtmp://[::1]:1936/vod/12|s?a"}, 0},
		{"regular expression matches the whole", "", "xlive/12", "s", "", nil, nil, 0},
		{"captures are not expanded again", "[app]", "x", "$1", "", nil, nil, 0},
		{"none", "", "other", "s", "", nil, nil, 0},
		{"several", "", "live", "news", "", []string{"rtmp://news/live|news"}, []string{"rtmp://news/live|news", "rtmp://h/asked|x", "rtmp://h/all|news"}, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := &forward.Request{Vhost: tt.vhost, App: tt.app, Stream: tt.stream, Param: tt.param}
			got := func(mode RouteMode) (urls []string, ttl time.Duration) {
				ds, ttl, err := forward.ResolveTTL(t.Context(), must(Routes(mode, routes...)), req)
				require.NoError(t, err)
				for _, d := range ds {
					e := must(option.Endpoint(d))
					urls = append(urls, e.TcURL+"|"+e.Key)
				}
				return urls, ttl
			}
			first, _ := got(FirstMatch)
			require.Equal(t, tt.first, first)
			all, ttl := got(AllMatches)
			require.Equal(t, tt.all, all)
			if tt.ttl != 0 {
				require.Equal(t, tt.ttl, ttl)
			}
		})
	}
}

func TestRoutesInsertCapturesAsTheyAre(t *testing.T) {
	r := must(Routes(FirstMatch, Route{Stream: "x*", To: []string{"rtmp://h/fixed/$1[stream]"}}))
	for _, stream := range []string{"x", "x$1", "x[app]", "x/../@evil/?#", "x${1}"} {
		ds, err := r.ResolveDestinations(t.Context(), &forward.Request{App: "live", Stream: stream})
		require.NoError(t, err)
		e := must(option.Endpoint(ds[0]))
		require.Equal(t, "rtmp://h/fixed", e.TcURL)
		require.Equal(t, stream[1:]+stream, e.Key)
	}
}

func TestRoutesRefuseMalformedRules(t *testing.T) {
	for want, r := range map[string]Route{
		"route 2: Stream: error parsing regexp":                            {Stream: "~("},
		"route 2: App: error parsing regexp":                               {App: "~a)|(b"},
		"route 2: entry 2 of To: rtmp://h/app/***: unknown":                {Stream: "*", To: []string{"h", "rtmp://h/app/" + canary + "$2"}},
		"unknown placeholder: expected one of [vhost] [app] [stream]":      {To: []string{"rtmp://h/app/${name}"}},
		"[param] $1 ${1} $2 ${2} ${n}":                                     {App: "?", Stream: "~(?P<n>x)", To: []string{"rtmp://h/app/$3"}},
		"entry 1 of To: destination rtmp://***: bad host: expected a name": {Stream: "*", To: []string{"rtmp://$1/app/" + canary}},
	} {
		_, err := Routes(FirstMatch, Route{}, r)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), canary)
	}
}

func TestRoutesDoNotTouchTheResolversAnswer(t *testing.T) {
	shared := make([]forward.Destination, 1, 2)
	shared[0].URL = "rtmp://h/app/shared"
	r := must(Routes(FirstMatch, Route{
		To:       []string{"rtmp://h/app/own"},
		Resolver: forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) { return shared, nil }),
	}))
	ds, err := r.ResolveDestinations(t.Context(), seedRequest())
	require.NoError(t, err)
	require.Len(t, ds, 2)
	require.Empty(t, shared[:2][1].URL)
}

func TestRoutesPassErrorsOn(t *testing.T) {
	down := errors.New("down")
	r := must(Routes(AllMatches, Route{To: []string{"h"}}, Route{Resolver: answering(0, down)}))
	_, err := r.ResolveDestinations(t.Context(), seedRequest())
	require.ErrorIs(t, err, down)

	r = must(Routes(FirstMatch, Route{Stream: "cam-*", To: []string{"rtmp://h/app/$1"}}))
	_, err = r.ResolveDestinations(t.Context(), &forward.Request{App: "live", Stream: "cam-"})
	require.ErrorContains(t, err, "destination rtmp://h/app/***: no stream key")
}
