package e2e

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Server.Publish follows the same rules.
func TestPublishInAVhost(t *testing.T) {
	s := newServer(t, forward.Config{Vhosts: map[string]forward.Vhost{"Studio.Example": {}}})
	for _, c := range []struct{ vhost, name, told string }{
		{"studio.EXAMPLE", "//studio.example/live/a", "Studio.Example"},
		{"New.Example", "//new.example/live/a", "new.example"},
		{"__DEFAULTVHOST__", "live/a", forward.DefaultVhost},
	} {
		p, err := s.Publish(t.Context(), forward.Request{Vhost: c.vhost, App: "live", Stream: "a"})
		require.NoError(t, err)
		src := p.Source()
		require.Equal(t, c.name, src.Name())
		require.Equal(t, c.told, src.Request().Vhost)
		_, err = s.Publish(t.Context(), forward.Request{Vhost: strings.ToUpper(c.vhost), App: "live", Stream: "a"})
		require.ErrorIs(t, err, forward.ErrStreamBusy)
	}
	for _, vhost := range []string{"a/b", "/", "a/", `a\b`, "a\n", "..", "\xff", strings.Repeat("a", 256)} {
		_, err := s.Publish(t.Context(), forward.Request{Vhost: vhost, App: "live", Stream: "a"})
		require.ErrorIs(t, err, rtmp.ErrName, "%q", vhost)
	}
	var names []string
	for _, src := range s.Sources() {
		names = append(names, src.Name())
	}
	require.Equal(t, []string{"//new.example/live/a", "//studio.example/live/a", "live/a"}, names)
	for name, found := range map[string]bool{
		"live/a": true, "//STUDIO.example/live/a": true, "//studio.example/live/a": true, "//__defaultvhost__/live/a": true,
		"studio.example/live/a": false, "/live/a": false, "//live/a": false, "///live/a": false, "//studio.example": false,
		"//studio.example/": false, "//studio.example//live/a": false, "//": false, "": false, "Live/a": false, "live/A": false,
	} {
		require.Equal(t, found, s.Source(name) != nil, name)
	}
}

// Two destinations that differ only in the stream's vhost do not wait for each other.
func TestForwardersOfTwoVhostsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network forwardtest.Network
		dest := network.NewDestination("dest:1935")
		defer dest.Close()
		s := newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial, Resolver: forward.MustStatic("rtmp://dest/live/same")})
		defer s.Close()
		for _, r := range []forward.Request{
			{Vhost: "studio.example", App: "live", Stream: "cam"},
			{App: "studio.example/live", Stream: "cam"},
		} {
			p, err := s.Publish(t.Context(), r)
			require.NoError(t, err)
			defer p.Close()
		}
		synctest.Wait()
		for _, src := range s.Sources() {
			require.Equal(t, forward.StatePublishing, src.Forwarders()[0].Stats().State, src.Name())
		}
		require.Len(t, dest.Sessions(), 2)
	})
}

// A Reload that spells a vhost in another case does not affect its streams.
func TestReloadRespellsAVhost(t *testing.T) {
	s := newServer(t, forward.Config{Logger: quiet, Vhosts: map[string]forward.Vhost{"Studio.example": {}}})
	p, err := s.Publish(t.Context(), forward.Request{Vhost: "studio.example", App: "live", Stream: "cam"})
	require.NoError(t, err)
	for _, name := range []string{"STUDIO.example", "studio.example"} {
		require.NoError(t, s.Reload(forward.Config{Logger: quiet, Vhosts: map[string]forward.Vhost{name: {}}}))
		require.Same(t, p.Source(), s.Source("//Studio.Example/live/cam"))
	}
	require.NoError(t, s.Reload(forward.Config{Logger: quiet, Vhosts: map[string]forward.Vhost{"other": {}}}))
	require.Nil(t, s.Source("//studio.example/live/cam"))
}
