package e2e

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// connected is the connect command of a session.
func connected(s *forwardtest.Session) (props map[string]any) {
	for _, c := range s.Commands() {
		if c.Name == "connect" {
			props, _ = c.Args[0].(map[string]any)
		}
	}
	return props
}

// spoken is what a session received: its commands in order, and the first data message.
func spoken(s *forwardtest.Session) (out []string) {
	for _, c := range s.Commands() {
		line := fmt.Sprintf("%s@%d %v", c.Name, c.StreamID, c.TransactionID)
		for _, a := range c.Args {
			if props, ok := a.(map[string]any); ok {
				delete(props, hopsProperty)
				delete(props, publishProperty)
				if props["swfUrl"] == props["tcUrl"] {
					delete(props, "swfUrl")
				}
				a = fmt.Sprintf("%q", props)
			}
			line += fmt.Sprint(" ", a)
		}
		out = append(out, line)
	}
	for _, m := range s.Recorder().Messages() {
		if m.Type == forward.TagData {
			out = append(out, fmt.Sprintf("data %q", m.Payload))
			break
		}
	}
	return out
}

// session is what a server receives with default settings.
func session(app, tcURL, key string) []string {
	return []string{
		fmt.Sprintf(`connect@0 1 map["app":%q "flashVer":"FMLE/3.0 (compatible; FMSc/1.0)" "tcUrl":%q "type":"nonprivate"]`, app, tcURL),
		"releaseStream@0 2 <nil> " + key,
		"FCPublish@0 3 <nil> " + key,
		"createStream@0 4 <nil>",
		"publish@1 5 <nil> " + key + " live",
		"FCUnpublish@0 6 <nil> " + key,
		"deleteStream@0 7 <nil> 1",
		fmt.Sprintf("data %q", setDataFrame+onMetaData),
	}
}

// The commands that each kind of server receives, for a URL and a key as its page shows them.
func TestProfileSessions(t *testing.T) {
	const fbKey = "FB-12-0-Ab?s_bl=1&s_psm=1&a=Ab/c+d=%2F"
	for _, c := range []struct {
		name string
		d    forward.Destination
		addr string // address of the destination
		want []string
	}{
		{"YouTube", forward.Destination{URL: "rtmps://a.rtmps.youtube.com/live2", StreamKey: "abcd-efgh"}, "a.rtmps.youtube.com:443",
			session("live2", "rtmps://a.rtmps.youtube.com/live2", "abcd-efgh")},
		{"YouTube, backup", forward.Destination{URL: "rtmps://b.rtmps.youtube.com:443/live2?backup=1", StreamKey: "abcd-efgh"}, "b.rtmps.youtube.com:443",
			session("live2?backup=1", "rtmps://b.rtmps.youtube.com:443/live2?backup=1", "abcd-efgh")},
		{"YouTube, host alone", forward.Destination{URL: "a.rtmps.youtube.com", StreamKey: "abcd-efgh"}, "a.rtmps.youtube.com:443",
			session("live2", "rtmps://a.rtmps.youtube.com/live2", "abcd-efgh")},
		{"YouTube, without TLS", forward.Destination{URL: "a.rtmp.youtube.com/abcd-efgh"}, "a.rtmp.youtube.com:1935",
			session("live2", "rtmp://a.rtmp.youtube.com/live2", "abcd-efgh")},
		{"Facebook", forward.Destination{URL: "rtmps://live-api-s.facebook.com:443/rtmp/", StreamKey: fbKey}, "live-api-s.facebook.com:443",
			session("rtmp", "rtmps://live-api-s.facebook.com:443/rtmp", fbKey)},
		{"Facebook, one URL", forward.Destination{URL: "live-api-s.facebook.com:443/rtmp/FB-1?s_bl=1&a=x"}, "live-api-s.facebook.com:443",
			session("rtmp", "rtmps://live-api-s.facebook.com:443/rtmp", "FB-1?s_bl=1&a=x")},
		{"Twitch", forward.Destination{URL: "rtmp://fra05.contribute.live-video.net/app", StreamKey: "live_1_x?bandwidthtest=true"}, "fra05.contribute.live-video.net:1935",
			session("app", "rtmp://fra05.contribute.live-video.net/app", "live_1_x?bandwidthtest=true")},
		{"Twitch, old URL", forward.Destination{URL: "live.twitch.tv", StreamKey: "live_1_x"}, "live.twitch.tv:1935",
			session("app", "rtmp://live.twitch.tv/app", "live_1_x")},
		{"Kick", forward.Destination{URL: "rtmps://fa723fc1b171.global-contribute.live-video.net", StreamKey: "sk_us-west-2_x"}, "fa723fc1b171.global-contribute.live-video.net:443",
			session("app", "rtmps://fa723fc1b171.global-contribute.live-video.net/app", "sk_us-west-2_x")},
		{"IVS, host alone", forward.Destination{URL: "fa7.global-contribute.live-video.net", StreamKey: "sk_x"}, "fa7.global-contribute.live-video.net:443",
			session("app", "rtmps://fa7.global-contribute.live-video.net/app", "sk_x")},
		{"Akamai", forward.Destination{URL: "rtmp://p.ep37267.i.akamaientrypoint.net/EntryPoint", StreamKey: "name_1_2500@37267"}, "p.ep37267.i.akamaientrypoint.net:1935",
			session("EntryPoint", "rtmp://p.ep37267.i.akamaientrypoint.net/EntryPoint", "name_1_2500@37267")},
		{"Wowza Cloud", forward.Destination{URL: "rtmp://ab12.entrypoint.cloud.wowza.com/app-x/k"}, "ab12.entrypoint.cloud.wowza.com:1935",
			session("app-x", "rtmp://ab12.entrypoint.cloud.wowza.com/app-x", "k")},
		{"Wowza", forward.Destination{URL: "rtmp://h/live/_definst_/k", Profile: forward.ProfileWowza}, "h:1935",
			session("live/_definst_", "rtmp://h/live/_definst_", "k")},
		{"SRS", forward.Destination{URL: "rtmp://h/live?vhost=a.example/k", StreamKey: "k?token=1"}, "h:1935",
			session("live?vhost=a.example/k", "rtmp://h/live?vhost=a.example/k", "k?token=1")},
		{"SRS, named", forward.Destination{URL: "rtmp://h/live/k?vhost=a.example", Profile: forward.ProfileSRS}, "h:1935",
			session("live", "rtmp://h/live", "k?vhost=a.example")},
		{"nginx-rtmp", forward.Destination{URL: "rtmp://h:19350/live/k?psk=1", Profile: forward.ProfileNginx}, "h:19350",
			session("live", "rtmp://h:19350/live", "k?psk=1")},
		{"MediaMTX", forward.Destination{URL: "rtmp://j%6f:p%26+@h/live/k", Profile: forward.ProfileMediaMTX}, "h:1935",
			session("live", "rtmp://h/live", "k?user=jo&pass=p%26%2B")},
		{"MediaMTX, a key with a query", forward.Destination{URL: "rtmp://h/live/k?a=1", User: "jo", Profile: forward.ProfileMediaMTX}, "h:1935",
			session("live", "rtmp://h/live", "k?a=1&user=jo&pass=")},
		{"MediaMTX, a path of one element", forward.Destination{URL: "rtmp://jo:pw@h/cam", Profile: forward.ProfileMediaMTX}, "h:1935",
			session("cam?user=jo&pass=pw", "rtmp://h/cam?user=jo&pass=pw", "")},
		{"of another platform's profile", forward.Destination{URL: "rtmp://h", StreamKey: "k", Profile: forward.ProfileIVS}, "h:1935",
			session("app", "rtmp://h/app", "k")},
		{"each default replaced", forward.Destination{URL: "rtmp://x.live-video.net:1936/other", StreamKey: "k", TcURL: "rtmp://t/u", FlashVer: "X/1",
			NoReleaseStream: true, NoFCPublish: true, PlainMetadata: true}, "x.live-video.net:1936",
			[]string{`connect@0 1 map["app":"other" "flashVer":"X/1" "tcUrl":"rtmp://t/u" "type":"nonprivate"]`,
				"createStream@0 4 <nil>", "publish@1 5 <nil> k live", "deleteStream@0 7 <nil> 1", fmt.Sprintf("data %q", onMetaData)}},
		{"no metadata", forward.Destination{URL: "rtmp://h/a/k", NoMetadata: true}, "h:1935", session("a", "rtmp://h/a", "k")[:7]},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				l, err := network.Listen(c.addr)
				require.NoError(t, err)
				a := newAuthority(t)
				if strings.HasSuffix(c.addr, ":443") {
					host, _, _ := net.SplitHostPort(c.addr)
					l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{a.issue(t, host, nil)}})
				}
				dest := forwardtest.NewDestinationAt(l)
				defer dest.Close()
				s := newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial, TLSConfig: &tls.Config{RootCAs: a.pool}})
				p := publish(t, s, "live", "s")
				f, err := p.Source().Forward(c.d)
				require.NoError(t, err)
				require.NoError(t, p.WriteTag(forward.TagData, 0, []byte(onMetaData)))
				require.NoError(t, p.WriteTag(forward.TagVideo, 0, []byte(h264Header)))
				require.NoError(t, p.WriteTag(forward.TagVideo, 0, []byte(h264Key)))
				synctest.Wait()
				require.Equal(t, forward.StatePublishing, f.Stats().State, "%v", f.Stats().LastErr)
				p.Close()
				<-p.Source().Done()
				synctest.Wait()
				require.Len(t, dest.Sessions(), 1)
				// Platforms are not told which software pushes.
				ep, err := endpoint.Spec{URL: c.d.URL, StreamKey: string(c.d.StreamKey), Profile: string(c.d.Profile)}.Parse()
				require.NoError(t, err)
				props := connected(dest.Sessions()[0])
				require.Equal(t, !ep.Profile.IsPlatform(), props[hopsProperty] != nil)
				require.Equal(t, !ep.Profile.IsPlatform(), props[publishProperty] != nil)
				require.Equal(t, c.want, spoken(dest.Sessions()[0]))
			})
		})
	}
}

// nginx-rtmp silently cuts off keys that are longer than its buffer.
func TestLongNamesAreWarnedOf(t *testing.T) {
	key := func(n int) forward.Secret { return forward.Secret(canary + strings.Repeat("k", n-len(canary))) }
	for _, c := range []struct {
		d    forward.Destination
		want string
	}{
		{forward.Destination{URL: "rtmp://h/live", StreamKey: key(255)}, ""},
		{forward.Destination{URL: "rtmp://h/live", StreamKey: key(256)}, "the stream key is 256 bytes long; nginx-rtmp and those made from it take only the first 255"},
		{forward.Destination{URL: "rtmp://h/live", StreamKey: key(256), Profile: forward.ProfileNginx}, "the stream key is 256 bytes long; nginx-rtmp takes only the first 255"},
		{forward.Destination{URL: "rtmp://h/live", StreamKey: key(256), Profile: forward.ProfileSRS}, ""},
		{forward.Destination{URL: "rtmps://live-api-s.facebook.com/rtmp/", StreamKey: key(300)}, ""},
		{forward.Destination{URL: "rtmp://h/" + strings.Repeat("a", 250), StreamKey: "k"}, "the tcUrl is 259 bytes long; nginx-rtmp and those made from it take only the first 255"},
		{forward.Destination{URL: "rtmp://h/" + strings.Repeat("a", 256), StreamKey: "k"}, "the app is 256 bytes long; nginx-rtmp and those made from it take only the first 255"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var network forwardtest.Network
			dest := network.NewDestination("h:1935", forwardtest.Script{At: map[int]func(*forwardtest.Session){1: (*forwardtest.Session).Reset}}, forwardtest.Script{})
			defer dest.Close()
			log := new(logtest.Buffer)
			s := newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial, Logger: secretscan.Logger(slog.NewTextHandler(log, nil))})
			p := publish(t, s, "live", "s")
			f, err := p.Source().Forward(c.d)
			require.NoError(t, err)
			require.NoError(t, p.WriteTag(forward.TagVideo, 0, []byte(h264Key)))
			time.Sleep(time.Minute)
			require.Equal(t, c.want, f.Stats().Warning)
			times := 0
			if c.want != "" {
				times = 1
			}
			require.Equal(t, times, strings.Count(log.String(), "may not accept"), "once, however often it connects")
			require.NotContains(t, log.String(), canary)
		})
	}
}
