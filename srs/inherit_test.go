package srs

import (
	"strings"
	"testing"
	"time"

	"github.com/rtmp-forward/forward/resolve"
	"github.com/stretchr/testify/require"
)

func TestInheritKeepsEqualSettings(t *testing.T) {
	const text = `
vhost a { forward { enabled on; backend http://a/; } http_hooks { enabled on; on_publish http://h/; } }
vhost b { forward { enabled on; backend http://b/; } }
vhost c { forward { enabled on; destination c; } }
`
	parse := func(text string) *File {
		f, err := ParseConfig("forward.conf", []byte(text))
		require.NoError(t, err)
		return f
	}
	old := parse(text)
	a, b := old.Config.Vhosts["a"], old.Config.Vhosts["b"]
	a.Resolver.(*resolve.HTTP).OnFailure = resolve.LastGood
	b.Resolver = resolve.Cached(b.Resolver, time.Minute)
	old.Config.Vhosts["b"] = b

	same := parse(text)
	same.Inherit(old)
	require.Same(t, a.Resolver, same.Config.Vhosts["a"].Resolver)
	require.IsType(t, b.Resolver, same.Config.Vhosts["b"].Resolver, "as the host has wrapped it")
	require.Same(t, old.HTTPHooks, same.HTTPHooks)
	require.Equal(t, backendFile{url: "http://b/"}, same.backends["b"], "to be inherited again")

	other := parse(strings.NewReplacer("http://a/", "http://x/", "http://h/", "http://y/").Replace(text))
	other.Inherit(old)
	require.Equal(t, "http://x/", other.Config.Vhosts["a"].Resolver.(*resolve.HTTP).URL)
	require.NotSame(t, old.HTTPHooks, other.HTTPHooks)

	none := parse("vhost a { }")
	none.Inherit(old)
	require.Nil(t, none.HTTPHooks)
	require.Nil(t, none.Config.Vhosts["a"].Resolver)
}
