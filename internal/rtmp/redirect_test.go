package rtmp

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/amf"
)

// refusedBy returns the bytes of connect's _error with ex.
func refusedBy(ex string) []byte {
	p := "\x02\x00\x06_error\x00\x3f\xf0\x00\x00\x00\x00\x00\x00\x05\x03" +
		"\x00\x05level\x02\x00\x05error" +
		"\x00\x04code\x02\x00\x1eNetConnection.Connect.Rejected" +
		"\x00\x0bdescription\x02\x00\x05moved" + ex + "\x00\x00\x09"
	return message(20, 0, []byte(p))
}

func TestClientRedirect(t *testing.T) {
	const code = "\x00\x04code\x00\x40\x72\xe0\x00\x00\x00\x00\x00" // 302
	const to = "\x00\x08redirect\x02\x00\x0d"                       // of 13 bytes
	for name, c := range map[string]struct {
		ex   string
		want string // empty: an ordinary refusal
	}{
		"302":                      {"\x00\x02ex\x03" + code + to + "rtmp://h2/app" + "\x00\x00\x09", "rtmp://h2/app"},
		"in an ECMA array":         {"\x00\x02ex\x08\x00\x00\x00\x02" + code + to + "rtmp://h2/app" + "\x00\x00\x09", "rtmp://h2/app"},
		"another code":             {"\x00\x02ex\x03\x00\x04code\x00\x40\x79\x30\x00\x00\x00\x00\x00" + to + "rtmp://h2/app" + "\x00\x00\x09", ""},
		"without a code":           {"\x00\x02ex\x03" + to + "rtmp://h2/app" + "\x00\x00\x09", ""},
		"without a place":          {"\x00\x02ex\x03" + code + "\x00\x00\x09", ""},
		"with a control character": {"\x00\x02ex\x03" + code + to + "rtmp://h2/\na\n" + "\x00\x00\x09", ""},
		"no object":                {"\x00\x02ex\x02\x00\x0drtmp://h2/app", ""},
		"nothing":                  {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := client(&record{}, Options{}, refusedBy(c.ex)).Publish()
			var st *StatusError
			require.ErrorAs(t, err, &st)
			require.Equal(t, StatusError{"connect", "error", "NetConnection.Connect.Rejected", "moved"}, *st)
			require.Equal(t, "connect refused: NetConnection.Connect.Rejected: moved", err.Error())
			var r *Redirect
			require.Equal(t, c.want != "", errors.As(err, &r))
			if r != nil {
				require.Equal(t, c.want, r.URL())
			}
		})
	}
	long := amf.Object{{Key: "ex", Value: amf.Object{{Key: "code", Value: 302}, {Key: "redirect", Value: "rtmp://h/" + strings.Repeat("a", MaxURL)}}}}
	err := client(&record{}, Options{}, command(0, "_error", 1, nil, long)).Publish()
	require.False(t, errors.As(err, new(*Redirect)), "too long")
	// After connect it has no meaning.
	err = client(&record{}, Options{}, connectOK, refusedBy("")).Publish()
	require.ErrorIs(t, err, io.EOF)
}

func TestClientReconnectRequest(t *testing.T) {
	// Enhanced RTMP v2, Info Object parameter for onStatus command when
	// handling reconnect.
	request := func(stream byte, tcURL string) []byte {
		p := "\x02\x00\x08onStatus\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05\x03"
		if tcURL != "" {
			p += "\x00\x05tcUrl\x02\x00" + string(rune(len(tcURL))) + tcURL
		}
		p += "\x00\x04code\x02\x00\x26NetConnection.Connect.ReconnectRequest" +
			"\x00\x0bdescription\x02\x00\x28The streaming server is undergoing updat" +
			"\x00\x05level\x02\x00\x06status\x00\x00\x09"
		return message(20, uint32(stream), []byte(p))
	}
	var got []string
	opt := Options{App: "live", TcURL: "rtmp://h/live", Key: "k", Reconnect: func(to string) { got = append(got, to) }}
	c := client(&record{}, opt, connectOK, request(0, "early"), createOK, publishOK,
		request(0, "rtmp://foo.mydomain.com:1935/realtimeapp"), request(1, "/realtimeapp"), request(0, ""),
		onStatus(1, "error", "NetStream.Publish.Rejected", "enough"))
	require.NoError(t, c.Publish())
	var st *StatusError
	require.ErrorAs(t, c.Watch(nil), &st, "the connection goes on")
	require.Equal(t, "NetStream.Publish.Rejected", st.Code)
	require.Equal(t, []string{"rtmp://foo.mydomain.com:1935/realtimeapp", "/realtimeapp", ""}, got)

	c = client(&record{}, Options{}, connectOK, createOK, publishOK, request(0, "x"))
	require.NoError(t, c.Publish())
	require.ErrorIs(t, c.Watch(nil), io.EOF, "nobody wants to know")
}

func TestClientLearnsCodecs(t *testing.T) {
	list := func(all ...any) amf.Object {
		return amf.Object{{Key: "fourCcList", Value: amf.StrictArray(all)}}
	}
	infoMap := func(key string, all ...any) amf.Object {
		var o amf.Object
		for i := 0; i < len(all); i += 2 {
			o = append(o, amf.Property{Key: all[i].(string), Value: all[i+1]})
		}
		return amf.Object{{Key: key, Value: o}}
	}
	for name, c := range map[string]struct {
		says amf.Object
		not  []string // those below that are not supported
	}{
		"nothing":                         {nil, nil},
		"video codecs":                    {list("hvc1", "av01"), []string{"vp09"}},
		"and audio codecs":                {list("hvc1", "av01", "vp09", "Opus"), []string{"fLaC"}},
		"audio codecs":                    {list("fLaC"), []string{"Opus"}},
		"all":                             {list("*"), nil},
		"an empty list":                   {list(), nil},
		"a list of something else":        {list(1, nil), nil},
		"forwards all video":              {infoMap("videoFourCcInfoMap", "*", 4), nil},
		"decodes HEVC":                    {infoMap("videoFourCcInfoMap", "hvc1", 1), []string{"av01", "vp09"}},
		"encodes HEVC":                    {infoMap("videoFourCcInfoMap", "hvc1", 2), []string{"hvc1", "av01", "vp09"}},
		"forwards Opus":                   {infoMap("audioFourCcInfoMap", "Opus", 7), []string{"fLaC"}},
		"flags of another type":           {infoMap("audioFourCcInfoMap", "Opus", "yes"), []string{"fLaC"}},
		"an empty map":                    {infoMap("audioFourCcInfoMap"), nil},
		"the map counts before the list":  {append(list("*"), infoMap("videoFourCcInfoMap", "vp09", 4)...), []string{"hvc1", "av01"}},
		"the map of one, the list of one": {append(list("hvc1", "Opus"), infoMap("videoFourCcInfoMap", "*", 4)...), []string{"fLaC"}},
	} {
		info := status("status", "NetConnection.Connect.Success", "")
		for place, answer := range map[string][]byte{
			"information": command(0, "_result", 1, nil, append(info, c.says...)),
			"properties":  command(0, "_result", 1, append(amf.Object{{Key: "fmsVer", Value: "x"}}, c.says...), info),
		} {
			t.Run(name+", in its "+place, func(t *testing.T) {
				cl := client(&record{}, Options{}, answer, createOK, publishOK)
				require.NoError(t, cl.Publish())
				var not []string
				for _, v := range []string{"hvc1", "av01", "vp09"} {
					if !cl.Takes(false, v) {
						not = append(not, v)
					}
				}
				for _, a := range []string{"Opus", "fLaC"} {
					if !cl.Takes(true, a) {
						not = append(not, a)
					}
				}
				require.Equal(t, c.not, not)
			})
		}
	}
}
