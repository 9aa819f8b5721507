//go:build interop

package interop

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Programs that Debian 12 lacks or has in an older version: .ci/newer provides them. If
// a variable is empty, the matrix runs without the program and says so.
var (
	newFFmpeg = os.Getenv("FORWARD_FFMPEG") // FFmpeg 7 or later
	obs       = os.Getenv("FORWARD_OBS")
)

// addNewer adds a current FFmpeg to the peers.
func addNewer() {
	if newFFmpeg == "" {
		return
	}
	name := "ffmpeg " + ffmpegVersion(newFFmpeg)
	publishers = append(publishers, publisher{name, known, rule{}, func(t *testing.T, c *clip, url string) error {
		return ffmpegPublish(t, newFFmpeg, c, url)
	}, nil})
	players = append(players, player{name, known, rule{}, func(t *testing.T, _ *clip, url string, _ <-chan struct{}) ([]tag, error) {
		return ffmpegPlay(t, newFFmpeg, url)
	}})
	receivers = append(receivers, player{name, known, rule{}, func(t *testing.T, _ *clip, url string, _ <-chan struct{}) ([]tag, error) {
		return ffmpegPlay(t, newFFmpeg, url, "-listen", "1")
	}})
	tlsPublishers = append(tlsPublishers, tlsFFmpeg(newFFmpeg))
	tlsPlayers = append(tlsPlayers, tlsFFplay(newFFmpeg))
	askedPublishers = append(askedPublishers, askedFFmpeg(newFFmpeg))
}

// known are the clips that FFmpeg 7 can parse.
func known(c *clip) bool { return c.modern }

// absent names the programs that the matrix lacks.
func absent() (out []string) {
	if newFFmpeg == "" {
		out = append(out, "a current FFmpeg (FORWARD_FFMPEG)")
	}
	if obs == "" {
		out = append(out, "OBS (FORWARD_OBS)")
	}
	return out
}

// ffmpegVersion is the first two numbers of an FFmpeg's version, such as 7.1.
func ffmpegVersion(program string) string {
	out, err := exec.Command(program, "-version").Output()
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(string(out), "ffmpeg version "), " ")
	if n := strings.SplitN(strings.TrimLeft(version, "n"), ".", 3); len(n) > 1 {
		version = n[0] + "." + n[1]
	}
	return version
}
