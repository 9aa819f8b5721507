package e2e

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// packets are messages as they are on the wire.
type packets []forwardtest.Message

func video(body string) forwardtest.Message {
	return forwardtest.Message{Type: forward.TagVideo, Payload: []byte(body)}
}

func audio(body string) forwardtest.Message {
	return forwardtest.Message{Type: forward.TagAudio, Payload: []byte(body)}
}

// enhancedForms are all packet forms of Enhanced RTMP, each with the file of
// testdata/ertmp that shows it.
var enhancedForms = map[string]string{
	"HEVC":                                "hevc",
	"AVC":                                 "avc",
	"VVC":                                 "vvc",
	"AV1":                                 "av1",
	"VP9":                                 "vp9",
	"VP8":                                 "vp8",
	"HEVC, legacy id 12":                  "hevc-id12",
	"Opus":                                "opus",
	"FLAC":                                "flac",
	"AC-3":                                "ac3",
	"E-AC-3":                              "eac3",
	"MP3":                                 "mp3",
	"AAC":                                 "aac",
	"SequenceStart":                       "sequence-start",
	"CodedFrames":                         "hevc",
	"CodedFramesX":                        "coded-frames-x",
	"SequenceEnd":                         "sequence-end",
	"SequenceEnd of audio":                "audio-sequence-end",
	"MPEG2TSSequenceStart":                "mpeg2ts-sequence-start",
	"Metadata, colorInfo":                 "metadata-colorinfo",
	"Command":                             "command",
	"generated keyframe":                  "generated-keyframe",
	"OneTrack":                            "video-one-track",
	"ManyTracks":                          "video-many-tracks",
	"ManyTracksManyCodecs":                "video-many-tracks-many-codecs",
	"OneTrack of audio":                   "audio-one-track",
	"ManyTracks of audio":                 "audio-many-tracks",
	"ManyTracksManyCodecs of audio":       "audio-many-tracks-many-codecs",
	"TimestampOffsetNano, 8 bits":         "video-modex-nanos",
	"TimestampOffsetNano, 16 bits":        "video-modex-nanos-16",
	"TimestampOffsetNano, 8 bits, audio":  "audio-modex-nanos",
	"TimestampOffsetNano, 16 bits, audio": "audio-modex-nanos-16",
	"ModEx, unknown":                      "video-modex-unknown",
	"ModEx, unknown, audio":               "audio-modex-unknown",
	"ModEx, multitrack":                   "video-modex-many-tracks",
	"unknown packet type":                 "unknown-video-packet-type",
	"unknown packet type, audio":          "unknown-audio-packet-type",
	"unknown FourCC":                      "unknown-video-fourcc",
	"unknown FourCC, audio":               "unknown-audio-fourcc",
	"MultichannelConfig":                  "multichannel-config",
	"onMetaData with the maps of tracks":  "metadata-track-maps",
}

func TestEnhancedForms(t *testing.T) {
	const dir = "../../testdata/ertmp"
	files, err := filepath.Glob(dir + "/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for form, file := range enhancedForms {
		require.Contains(t, files, filepath.Join(dir, file+".txt"), form)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { readRecording(t, file).replay(t) })
		})
	}
}

// recording is a file of testdata/ertmp. Its README describes the format.
type recording struct {
	messages packets
	start    int         // where a receiver starts, after these headers:
	headers  map[int]int // the messages, from index 1
}

func readRecording(t *testing.T, file string) *recording {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Regexp(t, `(?m)^# (Enhanced RTMP v2|FLV 10.1), [A-Z]`, string(text), "the section of the specification")
	r := &recording{start: -1, headers: make(map[int]int)}
	for n, line := range strings.Split(string(text), "\n") {
		where := fmt.Sprintf("%s:%d", file, n+1)
		goesOn := strings.HasPrefix(line, " ")
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if !goesOn {
			require.Greater(t, len(fields), 3, where)
			r.begin(t, where, fields[0], fields[1], fields[2])
			fields = fields[3:]
		}
		m := &r.messages[len(r.messages)-1]
		for _, f := range fields {
			m.Payload = append(m.Payload, someBytes(t, where, f)...)
		}
	}
	require.Positive(t, r.start, file)
	for n := range len(r.headers) {
		require.Contains(t, r.headers, n+1, file)
		require.Less(t, r.headers[n+1], r.start, file)
	}
	return r
}

// begin adds a message without a body.
func (r *recording) begin(t *testing.T, where, role, typ, ms string) {
	switch role {
	case "-":
	case "start":
		require.Negative(t, r.start, where)
		r.start = len(r.messages)
	default:
		n, err := strconv.Atoi(role)
		require.NoError(t, err, where)
		require.NotContains(t, r.headers, n, where)
		r.headers[n] = len(r.messages)
	}
	m := forwardtest.Message{Type: map[string]uint8{"audio": forward.TagAudio, "video": forward.TagVideo, "data": forward.TagData}[typ]}
	require.NotZero(t, m.Type, where)
	time, err := strconv.ParseUint(ms, 10, 32)
	require.NoError(t, err, where)
	m.Timestamp = uint32(time)
	r.messages = append(r.messages, m)
}

// someBytes parses "text", hexadecimal digits, or digits with a repeat count.
func someBytes(t *testing.T, where, s string) []byte {
	if text, ok := strings.CutPrefix(s, `"`); ok {
		text, ok = strings.CutSuffix(text, `"`)
		require.True(t, ok, where)
		return []byte(text)
	}
	digits, times, repeated := strings.Cut(s, "*")
	b, err := hex.DecodeString(digits)
	require.NoError(t, err, where)
	if repeated {
		n, err := strconv.Atoi(times)
		require.NoError(t, err, where)
		b = bytes.Repeat(b, n)
	}
	return b
}

// replay publishes the recording. Its receivers are a destination and a player that are
// there from the start, some that join after everything is sent, and for each message
// some that stall at it and continue after everything is sent.
func (r *recording) replay(t *testing.T) {
	var network forwardtest.Network
	dests := make(map[string]*forwardtest.Destination)
	destination := func(name string, v valve) forward.Destination {
		dest := network.NewDestination(name + ":1935")
		t.Cleanup(func() { dest.Close() })
		dests[name] = dest
		return forward.Destination{URL: "rtmp://" + name + "/app/" + canary, DialContext: func(ctx context.Context, nw, addr string) (net.Conn, error) {
			nc, err := network.Dial(ctx, nw, addr)
			return valved{nc, v}, err
		}}
	}
	all := []forward.Destination{destination("dest", nil)}
	hangs := make([]valve, r.start)
	for i := range hangs {
		hangs[i] = make(valve, 1)
		all = append(all, destination(fmt.Sprint("hangs", i), hangs[i]))
	}
	s := newServer(t, forward.Config{MaxLatency: time.Second, MergeWindow: -1, WriteTimeout: time.Hour, Resolver: to(all...)})
	defer s.Close()
	play := func(v valve) *forwardtest.Player {
		p, err := forwardtest.Client{Dial: func(ctx context.Context, nw, addr string) (net.Conn, error) {
			near, far := forwardtest.Pipe()
			go s.ServeConn(context.WithoutCancel(ctx), valved{far, v})
			return near, nil
		}}.Play(t.Context(), nil)
		require.NoError(t, err)
		t.Cleanup(func() { p.Close() })
		return p
	}
	pub, err := forwardtest.Client{Dial: forwardtest.Direct(s)}.Publish(t.Context())
	require.NoError(t, err)
	defer pub.Close()
	player := play(nil)
	var players []*forwardtest.Player // the stalled receivers
	for _, v := range hangs {
		players = append(players, play(v))
	}
	synctest.Wait()

	for i, m := range r.messages {
		if i < r.start {
			hangs[i].shut()
		}
		if i == r.start {
			time.Sleep(time.Second) // more than a receiver may lag
		}
		require.NoError(t, pub.WriteMessage(m))
		synctest.Wait()
	}
	late := play(nil)
	_, err = s.Source("live/stream").Forward(destination("late", nil))
	require.NoError(t, err)
	for _, v := range hangs {
		v.open()
	}
	synctest.Wait()

	arrived := func(name string) []forwardtest.Message {
		require.Len(t, dests[name].Sessions(), 1, name)
		return dests[name].Sessions()[0].Recorder().Messages()
	}
	require.Equal(t, lines(r.messages), lines(arrived("dest")))
	require.Equal(t, lines(played(r.messages)), lines(player.Recorder().Messages()))
	require.Equal(t, lines(r.joined(true)), lines(arrived("late")))
	require.Equal(t, lines(played(r.joined(true))), lines(late.Recorder().Messages()))
	for i := range hangs {
		want := r.resumed(i)
		require.Equal(t, lines(want), lines(arrived(fmt.Sprint("hangs", i))), "hangs at message %d", i)
		require.Equal(t, lines(played(want)), lines(players[i].Recorder().Messages()), "hangs at message %d", i)
	}
}

// joined is what a receiver gets that starts at the start message: the headers with its
// timestamp, except the first metadata of a new receiver, which has 0.
func (r *recording) joined(first bool) (all packets) {
	for n := range len(r.headers) {
		m := r.messages[r.headers[n+1]]
		m.Timestamp = r.messages[r.start].Timestamp
		if first && m.Type == forward.TagData {
			m.Timestamp = 0
		}
		all = append(all, m)
	}
	return append(all, r.messages[r.start:]...)
}

// resumed is what a receiver gets that has received everything up to message n before
// it continues at the start message: the headers only if it has missed one of them.
func (r *recording) resumed(n int) packets {
	got := slices.Clone(r.messages[:n+1])
	for _, i := range r.headers {
		if n < i {
			return append(got, r.joined(false)...)
		}
	}
	return append(got, r.messages[r.start:]...)
}

// played is what a player gets of what a destination gets.
func played(all packets) (out packets) {
	for _, m := range all {
		m.Payload = bytes.TrimPrefix(m.Payload, []byte(setDataFrame))
		out = append(out, m)
	}
	return out
}

// valve blocks writes to its connections while it is shut. The nil valve is open.
type valve chan struct{}

func (v valve) shut() { v <- struct{}{} }

func (v valve) open() { <-v }

type valved struct {
	net.Conn
	valve valve
}

func (c valved) Write(p []byte) (int, error) {
	if c.valve != nil {
		c.valve.shut()
		defer c.valve.open()
	}
	return c.Conn.Write(p)
}

// pushed is what a destination gets for a message.
func pushed(m forwardtest.Message) forwardtest.Message {
	if m.Type == forward.TagData {
		m.Payload = append([]byte(setDataFrame), m.Payload...)
	}
	return m
}

// payloads are the bodies of messages, shortened so that differences are readable.
func payloads(all ...[]forwardtest.Message) (out []string) {
	for _, part := range all {
		for _, m := range part {
			out = append(out, fmt.Sprintf("%d %.64q %d", m.Type, m.Payload, len(m.Payload)))
		}
	}
	return out
}
