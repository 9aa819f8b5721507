package forward_test

import (
	"net/http"
	"reflect"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/resolve"
	"github.com/rtmp-forward/forward/srs"
)

func init() {
	forward.ControlHandler = func(s *forward.Server, token forward.Secret) http.Handler {
		h, err := control.Handler(s, control.Options{Tokens: []forward.Secret{token}})
		if err != nil {
			panic(err)
		}
		return h
	}
	forward.ResolveHTTP = func(b forward.HTTPBackend) forward.DestinationResolver {
		return &resolve.HTTP{
			URL: b.URL, Client: b.Client, OnFailure: policy(b), Secret: b.Secret,
			MaxQuestions: b.MaxQuestions, Timeout: b.Timeout, Logger: b.Logger,
		}
	}
	forward.ResolveCached = resolve.Cached
	forward.SRSHooks = func(b forward.HTTPBackend) forward.Hooks {
		return (&srs.Hooks{
			URLs: srs.HookURLs{OnPublish: []string{b.URL}}, Client: b.Client, Secret: b.Secret,
			MaxQuestions: b.MaxQuestions, Timeout: b.Timeout, Logger: b.Logger,
		}).Hooks()
	}
	forward.TypesBeside = []reflect.Type{
		reflect.TypeFor[control.Options](),
		reflect.TypeFor[resolve.DNS](), reflect.TypeFor[resolve.HTTP](), reflect.TypeFor[resolve.Route](), reflect.TypeFor[resolve.RouteMode](),
		reflect.TypeFor[srs.File](), reflect.TypeFor[srs.HookURLs](), reflect.TypeFor[srs.Hooks](), reflect.TypeFor[srs.RTMPSFile](),
	}
	forward.ValuesBeside = valuesBeside
	forward.ErrorsBeside = func(url string) []error {
		_, err := srs.ParseConfig("c", []byte("vhost v { forward { destination "+url+"; } }"))
		return []error{
			err, (&resolve.HTTP{URL: url}).Validate(), (&resolve.DNS{URL: url}).Validate(),
			(&srs.Hooks{URLs: srs.HookURLs{OnPlay: []string{url}}}).Validate(),
		}
	}
}

func policy(b forward.HTTPBackend) resolve.FailurePolicy {
	switch b.OnFailure {
	case "FailClosed":
		return resolve.FailClosed
	case "FailOpen":
		return resolve.FailOpen
	case "LastGood":
		return resolve.LastGood
	case "Fallback":
		return resolve.Fallback(b.Fallback)
	}
	return nil
}

func valuesBeside(url, backend string) []any {
	static := forward.MustStatic(url)
	routes, err := resolve.Routes(resolve.FirstMatch, resolve.Route{To: []string{url}})
	if err != nil {
		panic(err)
	}
	file, err := srs.ParseConfig("c", []byte("vhost v { forward { enabled on; destination "+url+"; } http_hooks { enabled on; on_publish "+backend+"; } }"))
	if err != nil {
		panic(err)
	}
	hooks := &srs.Hooks{URLs: srs.HookURLs{OnPublish: []string{backend}}, Secret: secretscan.Canary}
	http := &resolve.HTTP{URL: backend, Secret: secretscan.Canary}
	return []any{
		routes, resolve.Route{To: []string{url}}, http, &resolve.DNS{URL: url}, hooks, hooks.URLs, hooks.Hooks(),
		resolve.Cached(static, 0), resolve.Union(static), resolve.FromParam("to", "h"), resolve.Fallback(static),
		forward.Config{Resolver: static, Vhosts: map[string]forward.Vhost{"v": {Resolver: http}, "r": {Resolver: routes}}},
		file, *file, file.Config,
	}
}
