package e2e

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// SRS's own example answer names a server on the same machine. The address is checked
// after name resolution.
func TestUntrustedIsCheckedAtTheDial(t *testing.T) {
	d := forwardtest.NewDestination()
	defer d.Close()
	_, port, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(d.URL(""), "rtmp://"), "/"), ":")
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	dialled := make(chan string, 1)
	custom := func(ctx context.Context, network, _ string) (net.Conn, error) {
		dialled <- network
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
	}
	for _, row := range []struct {
		name, host string
		trusted    bool
		allow      []netip.Prefix
		dial       func(ctx context.Context, network, address string) (net.Conn, error)
		want       string // empty: publishing
	}{
		{"address", "127.0.0.1", false, nil, nil, "a loopback address"},
		{"name", "localhost", false, nil, nil, "a loopback address"},
		{"allowed", "127.0.0.1", false, loopback, nil, ""},
		{"allowed name", "localhost", false, loopback, nil, ""},
		{"trusted", "localhost", true, nil, nil, ""},
		{"own dialer, address", "10.0.0.1", false, nil, custom, "10.0.0.1:" + port + ": a private address"},
		{"own dialer, name", "public.example", false, nil, custom, "a loopback address"},
		{"own dialer, allowed", "public.example", false, loopback, custom, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			states := make(chan error, 16)
			s := newServer(t, forward.Config{AllowNetworks: row.allow, Dial: row.dial, Hooks: forward.Hooks{
				OnForward: func(f *forward.Forwarder, state forward.State, err error) {
					if state == forward.StatePublishing || state == forward.StateWaiting {
						states <- err
					}
				},
			}})
			src := publish(t, s, "live", canary).Source()
			_, err := src.Forward(forward.Destination{URL: "rtmp://" + row.host + ":" + port + "/live/s", Untrusted: !row.trusted})
			require.NoError(t, err)
			err = <-states
			if row.dial != nil && row.host != "10.0.0.1" {
				<-dialled
			}
			require.Empty(t, dialled, "a forbidden address was dialled")
			if row.want == "" {
				require.NoError(t, err)
				return
			}
			var de *forward.DestinationError
			require.ErrorAs(t, err, &de)
			require.Equal(t, forward.OpDial, de.Op)
			require.False(t, de.Temporary())
			var refused *forward.AddressError
			require.ErrorAs(t, err, &refused)
			require.ErrorContains(t, err, row.want)
			require.Equal(t, 1, strings.Count(err.Error(), port+": "), err)
		})
	}
}

// The port is checked even if the host's dialer has addresses of its own.
func TestUntrustedPortOfAName(t *testing.T) {
	inBubble(t, forward.Config{}, func(b *bubble) {
		b.Destination("a.example:25")
		src := publish(b.T, b.Server, "live", canary).Source()
		f, err := src.Forward(forward.Destination{URL: "rtmp://a.example:25/live/s", Untrusted: true})
		require.NoError(b, err)
		synctest.Wait()
		var refused *forward.AddressError
		require.True(b, errors.As(f.Stats().LastErr, &refused))
		require.ErrorContains(b, refused, "port 25 is not for destinations from outside")
	})
}
