package forward_test

import (
	"reflect"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/auth"
	"github.com/rtmp-forward/forward/control"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/live"
	"github.com/rtmp-forward/forward/metrics"
	"github.com/rtmp-forward/forward/probe"
	"github.com/rtmp-forward/forward/resolve"
	"github.com/rtmp-forward/forward/srs"
	"github.com/rtmp-forward/forward/status"
	"github.com/rtmp-forward/forward/table"
	"github.com/rtmp-forward/forward/webhooks"
)

// typesBeside are the exported types of the module's other packages that have values.
var typesBeside = []reflect.Type{
	reflect.TypeFor[auth.Token](),
	reflect.TypeFor[control.Options](), reflect.TypeFor[control.Server](), reflect.TypeFor[control.ServerOptions](), reflect.TypeFor[control.Credential](),
	reflect.TypeFor[live.Options](), reflect.TypeFor[live.Handlers](),
	reflect.TypeFor[metrics.Options](),
	reflect.TypeFor[probe.Report](), reflect.TypeFor[probe.Step](),
	reflect.TypeFor[resolve.DNS](), reflect.TypeFor[resolve.HTTP](), reflect.TypeFor[resolve.Route](), reflect.TypeFor[resolve.RouteMode](),
	reflect.TypeFor[srs.File](), reflect.TypeFor[srs.HTTPFile](), reflect.TypeFor[srs.HTTPFile](), reflect.TypeFor[srs.HookURLs](), reflect.TypeFor[srs.Hooks](), reflect.TypeFor[srs.RTMPSFile](), reflect.TypeFor[srs.WebhooksFile](),
	reflect.TypeFor[status.Options](),
	reflect.TypeFor[table.Entry](), reflect.TypeFor[table.FileError](), reflect.TypeFor[table.Options](), reflect.TypeFor[table.Row](), reflect.TypeFor[table.State](), reflect.TypeFor[table.Table](),
	reflect.TypeFor[webhooks.Options](), reflect.TypeFor[webhooks.Sender](),
}

// valuesBeside returns values that contain the URLs of a destination and of a backend.
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
	events := webhooks.Options{URL: backend, Secrets: []forward.Secret{secretscan.Canary}}
	sender, err := webhooks.New(events)
	if err != nil {
		panic(err)
	}
	return []any{
		events, sender, routes, resolve.Route{To: []string{url}}, http, &resolve.DNS{URL: url}, hooks, hooks.URLs, hooks.Hooks(),
		resolve.Cached(static, 0), resolve.Union(static), resolve.FromParam("to", "h"), resolve.Fallback(static),
		forward.Config{Resolver: static, Vhosts: map[string]forward.Vhost{"v": {Resolver: http}, "r": {Resolver: routes}}},
		file, *file, file.Config,
	}
}
