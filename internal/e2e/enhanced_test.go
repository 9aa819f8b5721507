package e2e

import (
	"context"
	"net"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// publishAs connects a client with these connect properties and publishes live/s.
func publishAs(t *testing.T, s *forward.Server, properties amf.Object) {
	nc, err := forwardtest.Direct(s)(t.Context(), "tcp", "h:1935")
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	require.NoError(t, rtmp.ClientHandshake(nc, false))
	send := func(b []byte) error { _, err := nc.Write(b); return err }
	conn := rtmp.NewConn(nc, send, 4096, 4096, chunk.Limits{Media: 1 << 20, Command: 1 << 20, Partial: 1 << 20, Streams: 16, TinySize: 1 << 20})
	require.NoError(t, rtmp.NewClient(conn, rtmp.Options{App: "live", TcURL: "rtmp://h/live", Key: "s", Properties: properties}).Publish())
}

// to resolves every stream to dests.
func to(dests ...forward.Destination) forward.DestinationResolver {
	return forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) { return dests, nil })
}

// advertised returns the Enhanced RTMP properties of a session's connect.
func advertised(t *testing.T, s *forwardtest.Session) map[string]any {
	c, err := s.WaitCommand(t.Context(), "connect")
	require.NoError(t, err)
	got := make(map[string]any)
	for k, v := range c.Args[0].(map[string]any) {
		switch k {
		case "fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx":
			got[k] = v
		}
	}
	return got
}

// everything is what a client that forwards any stream advertises (Enhanced
// RTMP v2, Enhancing NetConnection connect Command).
var everything = map[string]any{
	"fourCcList":         []any{"*"},
	"videoFourCcInfoMap": map[string]any{"*": 4.0},
	"audioFourCcInfoMap": map[string]any{"*": 4.0},
	"capsEx":             15.0, // reconnect, multitrack, ModEx, nanosecond offset
}

func TestForwarderAdvertisesWhatTheStreamNeeds(t *testing.T) {
	for _, c := range []struct {
		name       string
		properties amf.Object
		want       map[string]any
	}{
		{"nothing", nil, map[string]any{}},
		{"an encoder of 2023", amf.Object{{Key: "fourCcList", Value: amf.StrictArray{"hvc1", "av01"}}}, everything},
		{"an encoder of today", amf.Object{{Key: "videoFourCcInfoMap", Value: amf.Object{{Key: "hvc1", Value: 2}}}}, everything},
		{"ModEx alone", amf.Object{{Key: "capsEx", Value: 4}}, everything},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var net forwardtest.Network
				dest := net.NewDestination("dest:1935")
				defer dest.Close()
				s := newServer(t, forward.Config{Dial: net.Dial, Resolver: to(forward.Destination{URL: "rtmp://dest/app/" + canary})})
				publishAs(t, s, c.properties)
				synctest.Wait()
				require.Len(t, dest.Sessions(), 1)
				require.Equal(t, c.want, advertised(t, dest.Sessions()[0]))
				s.Close()
			})
		})
	}
}

// If an encoder does not advertise a codec but sends it, the destination is told from
// the second connection on.
func TestForwarderAdvertisesWhatItHasSeen(t *testing.T) {
	for _, c := range []struct {
		name string
		tag  []byte
		want map[string]any
	}{
		{"legacy", rtmptest.VideoHeader, map[string]any{}},
		{"hvc1", []byte("\x90hvc1\x01"), everything},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				dest := network.NewDestination("dest:1935")
				defer dest.Close()
				dials := 0
				s := newServer(t, forward.Config{Dial: func(ctx context.Context, nw, addr string) (net.Conn, error) {
					dials++
					return network.Dial(ctx, nw, addr)
				}})
				p := publish(t, s, "live", canary)
				_, err := p.Source().Forward(forward.Destination{URL: "rtmp://dest/app/" + canary})
				require.NoError(t, err)
				first, err := dest.WaitSession(t.Context(), 1)
				require.NoError(t, err)
				require.Empty(t, advertised(t, first))
				require.NoError(t, p.WriteTag(forward.TagVideo, 0, c.tag))
				synctest.Wait()
				first.Reset()
				second, err := dest.WaitSession(t.Context(), 2)
				require.NoError(t, err)
				require.Equal(t, c.want, advertised(t, second))
				require.Equal(t, 2, dials, "each attempt dials")
			})
		})
	}
}
