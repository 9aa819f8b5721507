package e2e

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// Each option of a Destination as the destination sees it.
func TestDestinationOptions(t *testing.T) {
	type wire struct {
		app, tcURL, flashVer, key, kind any
		commands                        []string
		media                           []string
	}
	meta := forwardtest.Message{Type: forward.TagData, Payload: rtmptest.Metadata}
	header := video(string(rtmptest.VideoHeader))
	usual := func() wire {
		return wire{"app", "rtmp://dest/app", "FMLE/3.0 (compatible; FMSc/1.0)", canary, "live",
			[]string{"connect", "releaseStream", "FCPublish", "createStream", "publish"},
			payloads([]forwardtest.Message{pushed(meta), header})}
	}
	for _, c := range []struct {
		name   string
		dest   forward.Destination
		change func(*wire)
	}{
		{"none", forward.Destination{}, func(*wire) {}},
		{"app of two levels", forward.Destination{URL: "rtmp://dest/a/b/" + canary}, func(w *wire) { w.app, w.tcURL = "a/b", "rtmp://dest/a/b" }},
		{"port as typed", forward.Destination{URL: "rtmp://dest:1935/app/" + canary}, func(w *wire) { w.tcURL = "rtmp://dest:1935/app" }},
		{"Facebook's form", forward.Destination{URL: "rtmp://dest/app/", StreamKey: "FB-1?s_bl=1&a=Ab/c+d="}, func(w *wire) { w.key = "FB-1?s_bl=1&a=Ab/c+d=" }},
		{"YouTube's backup", forward.Destination{URL: "rtmp://dest/live2?backup=1", StreamKey: "k-e-y"},
			func(w *wire) { w.app, w.tcURL, w.key = "live2?backup=1", "rtmp://dest/live2?backup=1", "k-e-y" }},
		{"Telegram's key", forward.Destination{URL: "rtmp://dest/s/123:AbC"}, func(w *wire) { w.app, w.tcURL, w.key = "s", "rtmp://dest/s", "123:AbC" }},
		{"Akamai's name", forward.Destination{URL: "rtmp://dest/app/name_1_2500@37267"}, func(w *wire) { w.key = "name_1_2500@37267" }},
		{"user and password stay here", forward.Destination{URL: "rtmp://jo:secret@dest/app/" + canary}, func(*wire) {}},
		{"TcURL", forward.Destination{TcURL: "rtmp://vhost.example/app/"}, func(w *wire) { w.tcURL = "rtmp://vhost.example/app/" }},
		{"FlashVer", forward.Destination{FlashVer: "Wirecast/FM 1.0"}, func(w *wire) { w.flashVer = "Wirecast/FM 1.0" }},
		{"NoReleaseStream", forward.Destination{NoReleaseStream: true}, func(w *wire) { w.commands = []string{"connect", "FCPublish", "createStream", "publish"} }},
		{"NoFCPublish", forward.Destination{NoFCPublish: true}, func(w *wire) { w.commands = []string{"connect", "releaseStream", "createStream", "publish"} }},
		{"PlainMetadata", forward.Destination{PlainMetadata: true}, func(w *wire) { w.media = payloads([]forwardtest.Message{meta, header}) }},
		{"NoMetadata", forward.Destination{NoMetadata: true}, func(w *wire) { w.media = payloads([]forwardtest.Message{header}) }},
		{"ChunkSize", forward.Destination{ChunkSize: 128}, func(*wire) {}},
		{"DigestHandshake", forward.Destination{DigestHandshake: true}, func(*wire) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				dest := network.NewDestination("dest:1935")
				defer dest.Close()
				p := publish(t, newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial}), "live", canary)
				if c.dest.URL == "" {
					c.dest.URL = "rtmp://dest/app/" + canary
				}
				f, err := p.Source().Forward(c.dest)
				require.NoError(t, err)
				synctest.Wait()
				require.NoError(t, f.Stats().LastErr)
				require.NoError(t, p.WriteTag(forward.TagData, 0, rtmptest.Metadata))
				require.NoError(t, p.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader))
				synctest.Wait()

				session := dest.Sessions()[0]
				var got wire
				for _, cmd := range session.Commands() {
					got.commands = append(got.commands, cmd.Name)
					switch cmd.Name {
					case "connect":
						props := cmd.Args[0].(map[string]any)
						got.app, got.tcURL, got.flashVer = props["app"], props["tcUrl"], props["flashVer"]
					case "publish":
						got.key, got.kind = cmd.Args[1], cmd.Args[2]
					}
				}
				got.media = payloads(session.Recorder().Messages())
				want := usual()
				c.change(&want)
				require.Equal(t, want, got)
			})
		})
	}
}

// A destination's own dialer takes precedence over the Server's. Each attempt dials, so
// names are resolved again.
func TestDialersAreCalledForEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network forwardtest.Network
		dest := network.NewDestination("dest:1935")
		defer dest.Close()
		var ours, own []string
		s := newServer(t, forward.Config{Dial: func(_ context.Context, nw, addr string) (net.Conn, error) {
			ours = append(ours, nw+" "+addr)
			if len(ours) < 3 {
				return nil, &net.DNSError{Err: "no such host", Name: "dest", IsNotFound: true}
			}
			return network.Dial(t.Context(), nw, addr)
		}})
		p := publish(t, s, "live", canary)
		f, err := p.Source().Forward(forward.Destination{URL: "rtmp://dest/app/" + canary})
		require.NoError(t, err)
		synctest.Wait()
		var de *forward.DestinationError
		require.ErrorAs(t, f.Stats().LastErr, &de)
		require.Equal(t, forward.OpResolve, de.Op)
		require.True(t, de.Temporary())
		_, err = p.Source().Forward(forward.Destination{URL: "rtmp://dest/app/other", DialContext: func(ctx context.Context, nw, addr string) (net.Conn, error) {
			own = append(own, nw+" "+addr)
			if _, ok := ctx.Deadline(); !ok {
				return nil, errors.New("no deadline")
			}
			return network.Dial(ctx, nw, addr)
		}})
		require.NoError(t, err)
		first, err := dest.WaitSession(t.Context(), 1)
		require.NoError(t, err)
		first.Reset()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, []string{"tcp dest:1935", "tcp dest:1935", "tcp dest:1935"}, ours)
		require.Equal(t, []string{"tcp dest:1935", "tcp dest:1935"}, own)
		require.Len(t, dest.Sessions(), 3)
	})
}

// The default dialer tries all addresses of a name in one attempt. If localhost has an
// IPv6 address too, nobody listens there.
func TestUsualDialerTriesAllAddresses(t *testing.T) {
	dest := forwardtest.NewDestination()
	defer dest.Close()
	f, err := publish(t, newServer(t, forward.Config{}), "live", canary).Source().
		Forward(forward.Destination{URL: strings.Replace(dest.URL("app/key"), "127.0.0.1", "localhost", 1)})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	session, err := dest.WaitSession(ctx, 1)
	require.NoError(t, err)
	_, err = session.WaitCommand(ctx, "publish")
	require.NoError(t, err)
	require.EqualValues(t, 1, f.Stats().Connects)
}

// Hints for destinations that do not answer.
func TestHintsOfSilence(t *testing.T) {
	hangUp := func(s *forwardtest.Session) { s.Close() }
	at := func(step string, do func(*forwardtest.Session)) forwardtest.Script {
		return forwardtest.Script{Steps: map[string]forwardtest.Step{step: {Do: do, Silent: true}}}
	}
	blackHole := forwardtest.Script{} // accepts TCP
	for _, c := range []struct {
		name, url string
		script    forwardtest.Script
		want      string
	}{
		{"YouTube without TLS", "rtmp://a.rtmps.youtube.com/live2/" + canary, blackHole, "dial: no answer within 5s (YouTube wants rtmps://)"},
		{"YouTube with TLS at the other host", "rtmps://a.rtmp.youtube.com/live2/" + canary, blackHole,
			"dial: no answer within 5s (YouTube: rtmps:// needs a host in rtmps.youtube.com"},
		{"no server at all", "rtmp://h/app/" + canary, blackHole, "dial: no answer within 5s"},
		{"unknown app", "rtmp://h/app/" + canary, at("connect", hangUp), "connect: closed by the destination (does it know the app?): "},
		{"at publish", "rtmp://h/app/" + canary, at("publish", hangUp), "publish: closed by the destination: "},
		{"no answer to publish", "rtmp://h/app/" + canary, at("publish", nil), "publish: no answer within 35s"},
		{"Facebook without TLS", "rtmp://live-api-s.facebook.com/rtmp/" + canary, at("handshake", hangUp), "handshake: closed by the destination (Facebook wants rtmps://): "},
		{"Kick without its app", "rtmp://fa723fc1b171.global-contribute.live-video.net/" + canary, at("connect", hangUp),
			"connect: closed by the destination (Amazon IVS (Kick, Twitch): rtmp:// is refused where it is not enabled): "},
		{"Kick with another app", "rtmp://fa723fc1b171.global-contribute.live-video.net/live/" + canary, at("connect", hangUp),
			"connect: closed by the destination (Amazon IVS (Kick, Twitch): its app is app): "},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				dest := network.NewDestination("dest", c.script)
				defer dest.Close()
				lost := make(chan error, 100)
				s := newServer(t, forward.Config{
					Dial: func(ctx context.Context, nw, _ string) (net.Conn, error) {
						if c.script.Steps == nil {
							<-ctx.Done()
							return nil, ctx.Err()
						}
						return network.Dial(ctx, nw, "dest")
					},
					Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, state forward.State, err error) {
						if state == forward.StateWaiting {
							lost <- err
						}
					}},
				})
				_, err := publish(t, s, "live", canary).Source().Forward(forward.Destination{URL: c.url})
				require.NoError(t, err)
				err = <-lost
				require.ErrorContains(t, err, c.want)
				require.NotContains(t, err.Error(), canary)
				var de *forward.DestinationError
				require.ErrorAs(t, err, &de)
				require.True(t, de.Temporary())
			})
		})
	}
}

// A destination without a merge window gets every message immediately, also over
// sockets, where the publisher is read once per window for the others.
func TestDestinationHasAWindowOfItsOwn(t *testing.T) {
	const window = time.Second
	early, others := destinationOf(t), destinationOf(t)
	lo := onLoopback(t, forward.Config{MergeWindow: window, Resolver: to(
		forward.Destination{URL: early.URL("live/" + canary), MergeWindow: -1},
		forward.Destination{URL: others.URL("live/" + canary)},
	)})
	pub := lo.publish("live/in")
	at, behind := lo.published(early, 1), lo.published(others, 1)
	frames, begun := 0, time.Now()
	for m := range (forwardtest.Media{}).Messages(time.Second) {
		require.NoError(t, pub.WriteMessage(m))
		if m.Type == forward.TagVideo && m.Payload[1] == 1 {
			frames++
			require.NoError(t, at.Recorder().WaitFrames(lo.ctx, frames))
		}
	}
	require.GreaterOrEqual(t, frames, 20)
	require.Less(t, time.Since(begun), 20*window, "every frame has waited for a window")
	require.NoError(t, behind.Recorder().WaitFrames(lo.ctx, frames))
}

// The timestamps of each kind on each connection, if the publisher's do not advance.
func TestDestinationTimestamps(t *testing.T) {
	for _, c := range []struct {
		name string
		dest forward.Destination
		want []uint32
	}{
		{"by default", forward.Destination{}, []uint32{5000, 5000, 4990, 5040}},
		{"stream", forward.Destination{Timestamps: forward.TimestampsStream}, []uint32{5000, 5000, 4990, 5040}},
		{"zero", forward.Destination{Timestamps: forward.TimestampsZero}, []uint32{0, 0, 0, 40}},
		{"increasing", forward.Destination{Timestamps: forward.TimestampsIncreasing}, []uint32{5000, 5001, 5002, 5040}},
		{"Akamai's", forward.Destination{Profile: forward.ProfileAkamai}, []uint32{5000, 5001, 5002, 5040}},
		{"Akamai with the stream's timestamps", forward.Destination{Profile: forward.ProfileAkamai, Timestamps: forward.TimestampsStream}, []uint32{5000, 5000, 4990, 5040}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				dest := network.NewDestination("dest:1935")
				defer dest.Close()
				p := publish(t, newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial}), "live", "s")
				c.dest.URL = "rtmp://dest/app/key"
				_, err := p.Source().Forward(c.dest)
				require.NoError(t, err)
				synctest.Wait()
				write := func(ms uint32, m forwardtest.Message) {
					require.NoError(t, p.WriteTag(m.Type, ms, m.Payload))
				}
				write(5000, video(h264Key))
				write(5000, video(h264Inter))
				write(4990, audio(aacData))
				write(5040, video(h264Inter))
				synctest.Wait()
				dest.Sessions()[0].Reset()
				time.Sleep(10 * time.Second)
				require.Len(t, dest.Sessions(), 2)
				for _, session := range dest.Sessions() { // the second connection starts with the GOP
					var got []uint32
					for _, m := range session.Recorder().Messages() {
						got = append(got, m.Timestamp)
					}
					require.Equal(t, c.want, got)
				}
			})
		})
	}
}
