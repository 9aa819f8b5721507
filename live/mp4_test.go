package live

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bluenviron/mediacommon/v2/pkg/formats/fmp4"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/flv"
	tags "github.com/rtmp-forward/forward/internal/flv"
)

// clip returns the messages of a file of testdata.
func clip(t *testing.T, file string) (messages []forward.Message) {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "testdata", file))
	require.NoError(t, err)
	defer f.Close()
	r := flv.NewReader(bufio.NewReader(f))
	for {
		m, err := r.Next()
		if errors.Is(err, io.EOF) {
			return messages
		}
		require.NoError(t, err)
		messages = append(messages, m)
	}
}

func send(t *testing.T, p *forward.Publisher, messages []forward.Message, shift uint32) {
	t.Helper()
	for _, m := range messages {
		write(t, p, m.Type, m.Timestamp+shift, m.Payload)
	}
}

// parse reads an MP4: what it says at first, and its fragments.
func parse(t *testing.T, mp4 []byte) (init fmp4.Init, parts fmp4.Parts) {
	t.Helper()
	require.NoError(t, init.Unmarshal(bytes.NewReader(mp4)))
	at := bytes.Index(mp4, []byte("moof"))
	require.Positive(t, at)
	require.NoError(t, parts.Unmarshal(mp4[at-4:]))
	return init, parts
}

// mp4 returns the body of an MP4, after which the stream has ended.
func (s *site) mp4(p *forward.Publisher, messages []forward.Message, shift uint32) (*http.Response, []byte) {
	s.t.Helper()
	send(s.t, p, messages, shift)
	s.t.Cleanup(func() { p.Close() })
	audio := forward.Message{}
	for _, m := range messages {
		if m.Type == forward.TagVideo {
			audio = forward.Message{}
			break
		}
		audio = m
	}
	// A player of audio alone begins with the newest message.
	if audio.Payload != nil {
		go func() {
			for at := audio.Timestamp + 20; p.WriteTag(audio.Type, at, audio.Payload) == nil; at += 20 {
				time.Sleep(2 * time.Millisecond) // the pace of the encoder
			}
		}()
	}
	resp := s.get("/live/" + name + ".mp4")
	require.Equal(s.t, http.StatusOK, resp.StatusCode)
	require.NoError(s.t, p.Close())
	body, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	if dir := os.Getenv("LIVE_OUT"); dir != "" {
		os.WriteFile(filepath.Join(dir, filepath.Base(s.t.Name())+".mp4"), body, 0o644)
	}
	return resp, body
}

func TestMP4OfEveryCodec(t *testing.T) {
	for _, tt := range []struct {
		file, mime string
	}{
		{"h264_aac.flv", `video/mp4; codecs="avc1.64000d,mp4a.40.2"`},
		{"h264_only.flv", `video/mp4; codecs="avc1.64000c"`},
		{"hevc_aac.flv", `video/mp4; codecs="hvc1.1.6.L60.90,mp4a.40.2"`},
		{"av1_opus.flv", `video/mp4; codecs="av01.0.00M.08,opus"`},
		{"vp9_opus.flv", `video/mp4; codecs="vp09.00.10.08,opus"`},
		{"aac_only.flv", `audio/mp4; codecs="mp4a.40.2"`},
		{"mp3_only.flv", `audio/mp4; codecs="mp4a.6b"`},
		{"h264_flac.flv", `video/mp4; codecs="avc1.64000c"`},
		{"h264_ac3.flv", `video/mp4; codecs="avc1.64000c"`},
		{"multitrack_hevc_aac_opus.flv", `video/mp4; codecs="hvc1.1.6.L60.90,mp4a.40.2"`},
	} {
		t.Run(tt.file, func(t *testing.T) {
			s := newSite(t, forward.Config{MergeWindow: -1}, Options{})
			resp, body := s.mp4(s.publish(), clip(t, tt.file), 0)
			require.Equal(t, tt.mime, resp.Header.Get("Content-Type"))
			_, parts := parse(t, body)
			samples := map[int]int{}
			next := map[int]uint64{}
			for _, p := range parts {
				for _, track := range p.Tracks {
					if at := next[track.ID]; at > 0 {
						require.LessOrEqual(t, at, track.BaseTime, "times never go back")
					}
					next[track.ID] = track.BaseTime
					for i, s := range track.Samples {
						if track.ID == 1 && samples[1] == 0 && i == 0 {
							require.False(t, s.IsNonSyncSample, "it begins with a keyframe")
						}
						require.Positive(t, s.Duration)
						require.NotEmpty(t, s.Payload)
						next[track.ID] += uint64(s.Duration)
					}
					samples[track.ID] += len(track.Samples)
				}
			}
			require.Equal(t, frames(clip(t, tt.file)), samples[1])
		})
	}
}

// frames counts the frames of track 0 from the last keyframe on.
func frames(messages []forward.Message) (n int) {
	for _, m := range messages {
		if m.Type != forward.TagVideo {
			continue
		}
		for tr := range tags.Tracks(m.Type, m.Payload) {
			switch {
			case tr.ID != 0:
			case tr.Kind == tags.KindKeyframe:
				n = 1
			case tr.Kind == tags.KindFrame:
				n++
			}
		}
	}
	return n
}

func TestHeadTellsTheType(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1}, Options{})
	send(t, s.publish(), clip(t, "h264_aac.flv"), 0)
	for path, want := range map[string]string{".mp4": `video/mp4; codecs="avc1.64000d,mp4a.40.2"`, ".flv": "video/x-flv"} {
		resp, err := s.http.Client().Head(s.http.URL + "/live/" + name + path)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, want, resp.Header.Get("Content-Type"))
	}
	eventually(t, func() bool { return s.srv.Stats().Players == 0 && s.h.muxers.count() == 0 })
}

// Viewers share the making of MP4, which ends with the last of them. The same header again
// is no change of codec; another one ends the answers.
func TestMP4IsMadeOnceAndEndsWithTheCodec(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1}, Options{})
	p := s.publish()
	send(t, p, clip(t, "h264_only.flv"), 0)
	first, gone := s.get("/live/"+name+".mp4"), s.get("/live/"+name+".mp4")
	require.Equal(t, 1, s.h.muxers.count())
	require.Equal(t, 2, s.srv.Stats().Players)
	require.Equal(t, 2, p.Source().Stats().Players)
	require.NoError(t, gone.Body.Close())
	eventually(t, func() bool { return s.srv.Stats().Players == 1 })
	send(t, p, clip(t, "h264_only.flv"), 6000)
	send(t, p, clip(t, "hevc_aac.flv"), 12000)
	body, err := io.ReadAll(first.Body)
	require.NoError(t, err)
	_, parts := parse(t, body)
	n := 0
	for _, part := range parts {
		n += len(part.Tracks[0].Samples)
	}
	require.Equal(t, 200, n)
	eventually(t, func() bool { return s.h.muxers.count() == 0 })

	again := s.get("/live/" + name + ".mp4")
	require.Equal(t, `video/mp4; codecs="hvc1.1.6.L60.90,mp4a.40.2"`, again.Header.Get("Content-Type"))
	require.NoError(t, s.srv.Close())
	_, err = io.ReadAll(again.Body)
	require.NoError(t, err)
	eventually(t, func() bool { return s.h.muxers.count() == 0 })
}

func TestNoMP4OfOtherCodecs(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1}, Options{})
	p := s.publish()
	for ms := uint32(0); ms < 2000; ms += 40 {
		write(t, p, forward.TagVideo, ms, []byte{0x12, 0, 0}) // H.263
	}
	go func() {
		for ms := uint32(2000); p.WriteTag(forward.TagVideo, ms, []byte{0x12, 0, 0}) == nil; ms += 40 {
			time.Sleep(time.Millisecond)
		}
	}()
	resp := s.get("/live/" + name + ".mp4")
	require.Equal(t, http.StatusNotAcceptable, resp.StatusCode)
}

// What is broken makes no MP4, and no trouble.
func TestMP4OfGarbage(t *testing.T) {
	s := newSite(t, forward.Config{MergeWindow: -1}, Options{})
	p := s.publish()
	send(t, p, clip(t, "h264_aac.flv"), 0)
	resp := s.get("/live/" + name + ".mp4")
	for _, m := range clip(t, "h264_aac.flv") {
		if coded := len(m.Payload) > 5 && m.Payload[1] == 1; coded {
			m.Payload = m.Payload[:5+len(m.Payload)%7]
			if len(m.Payload) > 5 {
				write(t, p, m.Type, 6000+m.Timestamp, m.Payload)
			}
		}
	}
	require.NoError(t, p.Close())
	_, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
}
