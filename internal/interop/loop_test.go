//go:build interop

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/flv"
)

// loops is the matrix role of a player that stays through an encoder's loop.
const loops = "plays, encoder in a loop"

// loopTurns is how often the encoder starts again.
const loopTurns = 5

// TestEncoderLoop runs ffmpeg in a shell loop: it publishes one clip after the other to
// a master, which forwards to a slave. Each player at both, a single process, plays all
// of it.
func TestEncoderLoop(t *testing.T) {
	needAll(t)
	for name, make := range map[string]func(*testing.T) []*clip{
		"h264_aac": func(t *testing.T) []*clip { return []*clip{h264aac(t)} },
		"bframes":  func(t *testing.T) []*clip { return []*clip{bframes(t)} },
		"size changes": func(t *testing.T) []*clip {
			return []*clip{bframes(t), encodedAs(t, "small-bframes", "320x180", "3")}
		},
		// ffmpeg's parser keeps the reference settings of the first header and
		// complains about others, in a plain file too.
		complains: func(t *testing.T) []*clip {
			return []*clip{bframes(t), encodedAs(t, "small", "320x180", "0")}
		},
		"size changes within": func(t *testing.T) []*clip { return []*clip{resolution(t)} },
		"audio":               func(t *testing.T) []*clip { return []*clip{audioOnly(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			loop(t, name, make(t))
		})
	}
}

// complains is the case in which ffmpeg prints errors without a fault.
const complains = "size and B-frames change"

// encodedAs is a clip with its own size and number of B-frames.
func encodedAs(t *testing.T, name, size, bframes string) *clip {
	return generate(name, func(t *testing.T, path string) {
		run(t, "ffmpeg", slices.Concat(quiet, testVideo(size), testAudio, x264, []string{"-bf", bframes}, aac, toFLV(path))...)
	})(t)
}

func loop(t *testing.T, name string, clips []*clip) {
	column := &clip{name: "loop: " + name}
	slave := serve(t, forward.Config{})
	master := serve(t, forward.Config{Resolver: forward.MustStatic(slave.addr)})
	var played []*looped
	for at, s := range map[string]*server{"master": master, "slave": slave} {
		played = append(played, startLooped(t, s.url("live/livestream"), at)...)
	}
	for _, s := range []*server{master, slave} {
		eventually(t, "players to be accepted", func() bool { return s.plays.Load() == int64(len(played)/2) })
	}
	var want []tag
	for i := range loopTurns {
		c := clips[i%len(clips)]
		require.NoError(t, ffmpegPublish(t, "ffmpeg", c, master.url("live/livestream")))
		want = append(want, c.tags...)
	}
	eventually(t, "the last end", func() bool { return len(slave.Sources()) == 0 })
	for _, s := range []*server{master, slave} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		require.NoError(t, s.Shutdown(ctx))
		require.EqualValues(t, len(played)/2, s.plays.Load(), "nobody has come again")
	}
	for _, p := range played {
		err := p.check(t, want, name != complains)
		table.set(loops+", "+p.at, p.name, column, err)
		if err != nil {
			t.Errorf("%s at the %s: %v", p.name, p.at, err)
		}
	}
}

// looped is a player and its output.
type looped struct {
	name, at string
	*process
	out string // an FLV file; empty for a player that decodes
	cut int    // number of last frames that it may lose
}

func startLooped(t *testing.T, url, at string) []*looped {
	dir := t.TempDir()
	out := func(name string) string { return filepath.Join(dir, at+"-"+name+".flv") }
	gst, dump, copied := out("gst"), out("rtmpdump"), out("ffmpeg")
	return []*looped{
		{"ffmpeg, decodes", at, start(t, "ffmpeg", "-v", "error", "-nostdin", "-copyts", "-i", url,
			"-fps_mode", "passthrough", "-f", "framemd5", "-"), "", 0},
		{"ffmpeg", at, start(t, "ffmpeg", "-v", "error", "-nostdin", "-copyts", "-i", url, "-c", "copy", "-f", "flv", copied), copied, 0},
		{"GStreamer rtmp2src", at, start(t, "gst-launch-1.0", "-q", "rtmp2src", "location="+url, "!", "filesink", "location="+gst), gst, 3},
		{"librtmp (rtmpdump)", at, start(t, "rtmpdump", "-q", "--live", "--timeout", "60", "-r", url, "-o", dump), dump, 0},
	}
}

// check compares the player's output with the published clips, one after the other.
// silent: ffmpeg decodes it without printing errors.
func (p *looped) check(t *testing.T, want []tag, silent bool) error {
	if err := p.wait(); err != nil && !incomplete(err) {
		return err
	}
	if p.out == "" {
		return p.checkDecoded(t, want, silent)
	}
	got, err := p.checkFile(want)
	if err != nil {
		return err
	}
	for i, m := range got { // readers of the file must not find text in it
		if m.typ == flv.TypeData && m.ms != 0 {
			return fmt.Errorf("message %d is metadata at %d ms", i, m.ms)
		}
	}
	decode := start(t, "ffmpeg", "-v", "error", "-nostdin", "-i", p.out, "-f", "null", "-")
	if err := decode.wait(); err != nil {
		return err
	}
	if said := decode.log.Bytes(); silent && len(said) > 0 {
		return fmt.Errorf("ffmpeg decodes the recording with errors: %s", said)
	}
	return nil
}

// checkFile compares a player's file with the published clips.
func (p *looped) checkFile(want []tag) (got []tag, err error) {
	if got, err = readFLV(p.out); err != nil {
		return nil, err
	}
	if err := checkSequence(slices.DeleteFunc(slices.Clone(got), func(m tag) bool { return m.typ == flv.TypeData })); err != nil {
		return nil, err
	}
	for _, typ := range []uint8{flv.TypeVideo, flv.TypeAudio} {
		if err := checkTurns(frames(want, typ), frames(got, typ), p.at == "slave", p.cut); err != nil {
			return nil, fmt.Errorf("type %d: %w", typ, err)
		}
	}
	return got, nil
}

// incomplete is rtmpdump's message about a stream shorter than its metadata says.
func incomplete(err error) bool {
	exit := (*exec.ExitError)(nil)
	return errors.As(err, &exit) && exit.ExitCode() == 2
}

// checkTurns compares frames, except their timestamps. pushed: the first frames of a
// turn may be missing, up to a keyframe.
func checkTurns(want, got []tag, pushed bool, cut int) error {
	at, missing := 0, 0
	for i, m := range got {
		for at < len(want) && !bytes.Equal(want[at].body, m.body) {
			at, missing = at+1, missing+1
			if !pushed {
				return fmt.Errorf("frame %d of %d is %v, published was %v", i, len(got), m, want[at-1])
			}
		}
		if at == len(want) {
			return fmt.Errorf("frame %d of %d was not published, or not there", i, len(got))
		}
		at++
	}
	if len(want)-at > cut {
		return fmt.Errorf("the last %d of %d frames are missing", len(want)-at, len(want))
	}
	if missing > len(want)/2 {
		return fmt.Errorf("%d of %d frames are missing", missing, len(want))
	}
	return nil
}

// checkDecoded checks the pictures and sound that ffmpeg has decoded.
func (p *looped) checkDecoded(t *testing.T, want []tag, silent bool) error {
	if said := p.log.Bytes(); silent && len(said) > 0 {
		return fmt.Errorf("errors: %s", said)
	}
	last, n := map[string]int64{}, 0
	for _, f := range parseFrames(t, p.process.out.Bytes()) {
		pts, err := strconv.ParseInt(f.pts, 10, 64)
		if err != nil {
			return err
		}
		if before, ok := last[f.media]; ok && pts <= before {
			return fmt.Errorf("%s: shown at %d after %d", f.media, pts, before)
		}
		last[f.media] = pts
		if f.media == "video" {
			n++
		}
	}
	pictures := len(frames(want, flv.TypeVideo))
	if len(last) == 0 || n > pictures || p.at == "master" && n < pictures || n < pictures/2 {
		return fmt.Errorf("%d pictures of %d", n, pictures)
	}
	return nil
}
