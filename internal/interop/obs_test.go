//go:build interop

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/flv"
)

// TestOBS lets OBS stream with each of its software encoders. What a player
// gets from a slave is what OBS has sent to the master, from the first message
// to the last.
func TestOBS(t *testing.T) {
	if obs == "" {
		return // the table says so
	}
	display := newDisplay(t)
	for _, encoder := range []struct{ id, clip string }{
		{"obs_x264", "live h264+aac"},
		{"ffmpeg_svt_av1", "live av1+aac"},
	} {
		t.Run(encoder.id, func(t *testing.T) {
			c := &clip{name: encoder.clip}
			err := obsStreams(t, display, encoder.id, c)
			table.set(publishes, "OBS "+obsVersion, c, err)
			require.NoError(t, err)
		})
	}
}

// obsVersion is filled in from what OBS says of itself.
var obsVersion string

func obsStreams(t *testing.T, display, encoder string, c *clip) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	slave := newServer(t, forward.Config{})
	master := newServer(t, forward.Config{
		Resolver: forward.MustStatic(slave.addr),
		Hooks: forward.Hooks{OnPublish: func(_ context.Context, req *forward.PublishRequest) error {
			if req.Param != "?token=a&b=/c" {
				return errors.New("another token")
			}
			return nil
		}},
	})
	in := newTap(t, master.addr)

	accepted := make(chan struct{})
	var got []tag
	played := make(chan error, 1)
	go func() {
		var err error
		got, err = playRaw(ctx, slave.addr, "live", "cam", accepted)
		played <- err
	}()
	<-accepted

	p := startOBS(t, display, encoder, "rtmp://"+in.addr+"/live", "cam?token=a&b=/c")
	var sent *tapped
	select {
	case sent = <-in.conns:
	case <-p.done:
		return fmt.Errorf("OBS has ended: %w: %s", p.err, p.log.tail())
	case <-ctx.Done():
		return ctx.Err()
	}
	const enough = 100 // frames of video
	if err := poll("frames of OBS", func() bool { return len(frames(sent.tags(), flv.TypeVideo)) >= enough }); err != nil {
		return fmt.Errorf("%w: %s", err, p.log.tail())
	}
	p.signal(t, syscall.SIGINT)
	if err := p.wait(); err != nil {
		return err
	}
	if err := <-played; err != nil {
		return err
	}
	c.tags = sent.tags()
	for i := range c.tags { // players get no @setDataFrame
		c.tags[i].body = bytes.TrimPrefix(c.tags[i].body, []byte(flv.SetDataFrame))
	}
	if err := checkHeaders(c.tags, got, flv.TypeVideo, rule{}); err != nil {
		return err
	}
	return checkAll(c.tags, got)
}

// newDisplay starts an X server and returns its DISPLAY.
func newDisplay(t *testing.T) string {
	p := start(t, "Xvfb", "-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp")
	eventually(t, "Xvfb's display", func() bool { return bytes.HasSuffix(p.out.Bytes(), []byte("\n")) })
	return ":" + strings.TrimSpace(string(p.out.Bytes()))
}

// startOBS starts OBS with a scene of one colour, which streams at once.
func startOBS(t *testing.T, display, encoder, server, key string) *process {
	home := t.TempDir()
	for name, text := range map[string]string{
		"global.ini": `
[General]
FirstRun=true
EnableAutoUpdates=false
Pre31Migrated=true
`,
		"basic/profiles/test/basic.ini": `
[General]
Name=test
[Output]
Mode=Advanced
Reconnect=false
[AdvOut]
Encoder=` + encoder + `
AudioEncoder=ffmpeg_aac
[Video]
BaseCX=320
BaseCY=180
OutputCX=320
OutputCY=180
FPSCommon=24 NTSC
[Audio]
SampleRate=48000
`,
		"basic/profiles/test/streamEncoder.json": `{"rate_control": "CBR", "bitrate": 300, "keyint_sec": 1, "preset": "` +
			map[string]string{"obs_x264": "ultrafast", "ffmpeg_svt_av1": "11"}[encoder] + `", "bf": 2}`,
		"basic/profiles/test/service.json": fmt.Sprintf(`{"type": "rtmp_custom", "settings": {"server": %q, "key": %q}}`, server, key),
		"basic/scenes/test.json": `{
	"name": "test", "current_scene": "scene", "current_program_scene": "scene", "scene_order": [{"name": "scene"}],
	"sources": [
		{"id": "color_source", "name": "colour", "settings": {"color": 4278255615, "width": 160, "height": 90}},
		{"id": "scene", "name": "scene", "settings": {"id_counter": 1, "items": [{"name": "colour", "id": 1, "visible": true}]}}
	]
}`,
	} {
		path := filepath.Join(home, ".config/obs-studio", name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return startEnv(t, []string{"HOME=" + home, "DISPLAY=" + display, "LIBGL_ALWAYS_SOFTWARE=1", "XDG_RUNTIME_DIR=/tmp"},
		obs, "--multi", "--startstreaming", "--minimize-to-tray", "--disable-shutdown-check", "--disable-missing-files-check",
		"--profile", "test", "--collection", "test")
}
