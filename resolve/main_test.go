package resolve

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

const canary = secretscan.Canary

var (
	quiet       = secretscan.Quiet
	newServer   = hosttest.NewServer
	dialTo      = hosttest.DialTo
	seedRequest = hosttest.Request
	body        = hosttest.Body
	status      = hosttest.Status
	replying    = hosttest.Replying
)

type roundTripper = hosttest.RoundTripper

var destinationURLs = hosttest.URLs

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// asRefresh is ctx as a Server passes it on when it asks again.
func asRefresh(ctx context.Context) context.Context { return refreshing{ctx, refreshContext()} }

type refreshing struct {
	context.Context
	values context.Context
}

func (r refreshing) Value(key any) any { return r.values.Value(key) }

// refreshContext is a context of a question about a live stream, for its values.
var refreshContext = sync.OnceValue(func() (refresh context.Context) {
	s := forward.NewServer(forward.Config{Resolver: forward.ResolverFunc(func(ctx context.Context, _ *forward.Request) ([]forward.Destination, error) {
		refresh = ctx
		return nil, nil
	})})
	defer s.Close()
	p := must(s.Publish(context.Background(), forward.Request{App: "live", Stream: "s"}))
	if err := p.Source().Refresh(context.Background()); err != nil {
		panic(err)
	}
	return refresh
})
