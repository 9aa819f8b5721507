package e2e

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// listing is a Script that lists codecs in its answer to connect.
func listing(lists map[string]any) forwardtest.Script {
	info := map[string]any{"level": "status", "code": "NetConnection.Connect.Success", "description": ""}
	for k, v := range lists {
		info[k] = v
	}
	return forwardtest.Script{Steps: map[string]forwardtest.Step{"connect": {Do: func(s *forwardtest.Session) {
		s.Send(0, "_result", 1, map[string]any{"fmsVer": "FMS/3,0,1,123"}, info)
	}}}}
}

func TestCodecsThatAreNotListed(t *testing.T) {
	const hevc, opus, avc = "\x90hvc1", "\x90Opus", h264Header
	fourCCs := func(all ...any) map[string]any { return map[string]any{"fourCcList": all} }
	for _, c := range []struct {
		name         string
		lists        map[string]any
		video, audio string
		want         string // the codec of the warning, empty without one
	}{
		{"listed", fourCCs("av01", "hvc1"), hevc, aacConfig, ""},
		{"not listed", fourCCs("av01", "vp09"), hevc, aacConfig, "hvc1"},
		{"nothing listed", nil, hevc, opus, ""},
		{"any", map[string]any{"videoFourCcInfoMap": map[string]any{"*": 4}}, hevc, opus, ""},
		{"audio", map[string]any{"audioFourCcInfoMap": map[string]any{"fLaC": 1}}, hevc, opus, "Opus"},
		{"not of Enhanced RTMP", fourCCs("hvc1", "fLaC"), avc, aacConfig, ""},
		{"of both, in its form", fourCCs("hvc1", "fLaC"), "\x90avc1", "\x90mp4a", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				dest := network.NewDestination("h:1935", listing(c.lists))
				defer dest.Close()
				log := new(logtest.Buffer)
				s := newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial, Logger: secretscan.Logger(slog.NewTextHandler(log, nil))})
				p := publish(t, s, "live", "s")
				f, err := p.Source().Forward(forward.Destination{URL: "rtmp://h/live/k"})
				require.NoError(t, err)
				synctest.Wait()
				require.Empty(t, f.Stats().Warning, "nothing is known yet")
				require.NoError(t, p.WriteTag(forward.TagVideo, 0, []byte(c.video)))
				require.NoError(t, p.WriteTag(forward.TagAudio, 0, []byte(c.audio)))
				require.NoError(t, p.WriteTag(forward.TagVideo, 0, []byte(strings.Replace(c.video, "\x90", "\x91", 1)+"key")))
				time.Sleep(codecsKnown)
				synctest.Wait()
				require.NotEmpty(t, dest.Sessions()[0].Recorder().Messages(), "it is sent")

				why := ""
				if c.want != "" {
					why = c.want + " is not among the codecs that the destination lists"
				}
				require.Equal(t, why, f.Stats().Warning)

				// A destination that closes for this reason is not retried again and
				// again.
				dest.Sessions()[0].Reset()
				synctest.Wait()
				var de *forward.DestinationError
				require.ErrorAs(t, f.Stats().LastErr, &de)
				var codec *forward.UnsupportedCodecError
				require.Equal(t, c.want == "", de.Temporary())
				if c.want != "" {
					require.ErrorAs(t, de, &codec)
					require.Equal(t, c.want, codec.Codec)
					time.Sleep(9 * time.Second)
					require.Len(t, dest.Sessions(), 1)
				}
				time.Sleep(11 * time.Second)
				require.Len(t, dest.Sessions(), 2)

				// A destination that has stayed for this long accepts the codec.
				time.Sleep(time.Minute)
				dest.Sessions()[1].Reset()
				synctest.Wait()
				require.ErrorAs(t, f.Stats().LastErr, &de)
				require.True(t, de.Temporary())
				require.Equal(t, min(len(c.want), 1), strings.Count(log.String(), "may not accept"), "once")
			})
		})
	}
}

// Warnings that come from a platform's profile.
func TestCodecsOfPlatforms(t *testing.T) {
	for _, c := range []struct {
		name, url    string
		profile      forward.Profile
		video, audio string
		want         string
	}{
		{"Twitch", "rtmp://live.twitch.tv/app/k", "", h264Header, aacConfig, ""},
		{"Twitch, enhanced", "rtmp://live.twitch.tv/app/k", "", "\x90avc1", aacConfig, ""},
		{"Twitch, HEVC", "rtmp://live.twitch.tv/app/k", "", "\x90hvc1", aacConfig, "hvc1 is not among the codecs that Twitch takes"},
		{"Twitch, HEVC as id 12", "rtmp://live.twitch.tv/app/k", "", "\x1c\x00\x00\x00\x00\x01\x01", aacConfig, "hvc1 is not among the codecs that Twitch takes"},
		{"Twitch, no video", "rtmp://live.twitch.tv/app/k", "", "", aacConfig, ""},
		{"another server, HEVC", "rtmp://live.twitch.tv/app/k", forward.ProfileNone, "\x90hvc1", "", ""},
		{"YouTube", "rtmp://a.rtmp.youtube.com/live2/k", "", h264Header, aacConfig, ""},
		{"YouTube, no audio", "rtmp://a.rtmp.youtube.com/live2/k", "", h264Header, "", errNoAudio.Error()},
		{"YouTube, HEVC", "rtmp://a.rtmp.youtube.com/live2/k", "", "\x90hvc1", aacConfig, ""},
		{"another server, no audio", "rtmp://a.rtmp.youtube.com/live2/k", forward.ProfileNone, h264Header, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				host, _, _ := strings.Cut(strings.TrimPrefix(c.url, "rtmp://"), "/")
				dest := network.NewDestination(host + ":1935")
				defer dest.Close()
				log := new(logtest.Buffer)
				s := newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial, Logger: secretscan.Logger(slog.NewTextHandler(log, nil))})
				p := publish(t, s, "live", "s")
				f, err := p.Source().Forward(forward.Destination{URL: c.url, Profile: c.profile})
				require.NoError(t, err)
				require.Empty(t, f.Stats().Warning, "nothing is known yet")
				if c.video != "" {
					require.NoError(t, p.WriteTag(forward.TagVideo, 0, []byte(c.video)))
				}
				if c.audio != "" {
					require.NoError(t, p.WriteTag(forward.TagAudio, 0, []byte(c.audio)))
				}
				time.Sleep(codecsKnown)
				synctest.Wait()
				require.Equal(t, c.want, f.Stats().Warning)
				require.Equal(t, min(len(c.want), 1), strings.Count(log.String(), "may not accept"))
			})
		})
	}
}
