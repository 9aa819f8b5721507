//go:build interop

package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/flv"
)

// TestOBS streams with each of OBS's software encoders. A player gets exactly what OBS
// has sent, from the first message to the last; at a slave, from a keyframe on.
func TestOBS(t *testing.T) {
	if obs == "" {
		return // the table mentions it
	}
	display, name := newDisplay(t), obsName(t)
	for _, c := range []struct{ encoder, role, clip string }{
		{"obs_x264", publishes, "live h264+aac"},
		{"ffmpeg_svt_av1", publishes, "live av1+aac"},
		{"obs_x264", withPassword, "live h264+aac"},
		{"obs_x264", withLimelight, "live h264+aac"},
		{"obs_x264", publishesTLS, "live h264+aac"},
	} {
		t.Run(c.encoder+" "+c.role, func(t *testing.T) {
			t.Parallel()
			clip := &clip{name: c.clip}
			err := obsStreams(t, display, c.encoder, c.role, clip)
			table.set(c.role, name, clip, err)
			require.NoError(t, err)
		})
	}
}

// TestOBSRefusesCertificate shows OBS a certificate of an unknown authority.
func TestOBSRefusesCertificate(t *testing.T) {
	if obs == "" {
		return
	}
	name := obsName(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	id := newIdentity(t)
	said := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			said <- err
			return
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(patience))
		_, err = tls.Server(nc, &tls.Config{
			Certificates: []tls.Certificate{id.Certificate},
			MaxVersion:   tls.VersionTLS12, // makes the alert readable: in TLS 1.3 Mbed TLS sends it in the clear
		}).Read(make([]byte, 1))
		said <- err
	}()
	p := startOBS(t, obsOptions{display: newDisplay(t), encoder: "obs_x264", server: "rtmps://" + l.Addr().String() + "/live", key: "cam"})
	err = <-said
	p.kill() // it shows the error and waits for a click
	refused := err != nil && strings.Contains(err.Error(), "remote error: tls: ")
	if refused {
		err = nil
	}
	table.set(publishesTLS+", certificate refused", name, &clip{name: "live h264+aac"}, err)
	require.True(t, refused, "%v", err)
}

// obsStreams streams with OBS; the stream becomes c.
func obsStreams(t *testing.T, display, encoder, role string, c *clip) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o := obsOptions{display: display, encoder: encoder, key: "cam?token=a&b=/c"}
	// OBS ends AV1 with a message at time 0, whose timestamp would continue from the
	// others.
	slave := newServer(t, forward.Config{RawTimestamps: true})
	asks := 0 // connections before the publishing one
	var auth func(string) (forward.Secret, bool)
	var method forward.AuthMethod
	for m, asked := range askedRoles {
		if role == asked {
			o.user, asks, auth, method = user, 2, passwords, m
		}
	}
	master := newServer(t, forward.Config{
		RawTimestamps: true,
		Resolver:      forward.MustStatic(slave.addr),
		PublishAuth:   auth, PublishAuthMethod: method,
		Hooks: forward.Hooks{OnPublish: func(_ context.Context, req *forward.Request) error {
			if req.Param != "?token=a&b=/c" {
				return errors.New("another token")
			}
			return nil
		}},
	})
	var in *tap
	if role == publishesTLS {
		id := newIdentity(t)
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{id.Certificate}})
		require.NoError(t, err)
		in = newTapOn(t, l, master.addr)
		o.server, o.ca = "rtmps://"+in.addr+"/live", id.ca
	} else {
		in = newTap(t, master.addr)
		o.server = "rtmp://" + in.addr + "/live"
	}

	type result struct {
		tags []tag
		err  error
	}
	play := func(s *server) <-chan result {
		accepted, played := make(chan struct{}), make(chan result, 1)
		go func() {
			got, err := playRaw(ctx, s.addr, "live", "cam", accepted)
			played <- result{got, err}
		}()
		select {
		case <-accepted:
		case <-ctx.Done():
		}
		return played
	}
	atMaster, atSlave := play(master), play(slave)

	p := startOBS(t, o)
	var sent *tapped
	for range asks + 1 {
		select {
		case sent = <-in.conns:
		case <-p.done:
			return fmt.Errorf("OBS has ended: %w: %s", p.err, p.log.tail())
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", ctx.Err(), p.log.tail())
		}
	}
	const enough = 100 // frames of video
	if err := poll("frames of OBS", func() bool { return len(frames(sent.tags(), flv.TypeVideo)) >= enough }); err != nil {
		return fmt.Errorf("%w: %s", err, p.log.tail())
	}
	p.signal(t, syscall.SIGINT)
	// The exit status of OBS is not checked: OBS 30 may crash here.
	var exit *exec.ExitError
	if err := p.wait(); err != nil && !errors.As(err, &exit) {
		return err
	}
	here, there := <-atMaster, <-atSlave
	if err := errors.Join(here.err, there.err); err != nil {
		return err
	}
	c.tags = sent.tags()
	for i := range c.tags { // players get no @setDataFrame
		c.tags[i].body = bytes.TrimPrefix(c.tags[i].body, []byte(flv.SetDataFrame))
	}
	if err := checkAll(c.tags, here.tags); err != nil {
		return err
	}
	if err := checkRun(c.tags, there.tags, rule{pushed: true}); err != nil {
		return fmt.Errorf("at the slave: %w", err)
	}
	return nil
}

// newDisplay starts an X server and returns its DISPLAY.
func newDisplay(t *testing.T) string {
	p := start(t, "Xvfb", "-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp")
	eventually(t, "Xvfb's display", func() bool { return bytes.HasSuffix(p.out.Bytes(), []byte("\n")) })
	return ":" + strings.TrimSpace(string(p.out.Bytes()))
}

// obsName is OBS with its version.
func obsName(t *testing.T) string {
	p := startEnv(t, []string{"HOME=" + t.TempDir()}, obs, "--version")
	require.NoError(t, p.wait())
	_, version, _ := strings.Cut(string(p.out.Bytes()), " - ") // OBS Studio - 30.2.3
	return "OBS " + strings.TrimSpace(version)
}

type obsOptions struct {
	display, encoder  string
	server, key, user string
	ca                string // file of an authority to trust
}

// startOBS starts OBS, which immediately streams a scene of one colour.
func startOBS(t *testing.T, o obsOptions) *process {
	home := t.TempDir()
	certs := filepath.Join(home, "certs")
	require.NoError(t, os.Mkdir(certs, 0o700))
	if o.ca != "" {
		require.NoError(t, os.Link(o.ca, filepath.Join(certs, "ca.pem")))
	}
	for name, text := range map[string]string{
		"global.ini": `
[General]
FirstRun=true
EnableAutoUpdates=false
ConfirmOnExit=false
Pre31Migrated=true
`,
		"basic/profiles/test/basic.ini": `
[General]
Name=test
[Output]
Mode=Advanced
Reconnect=false
[AdvOut]
Encoder=` + o.encoder + `
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
		"basic/profiles/test/streamEncoder.json": `{"rate_control": "CBR", "bitrate": 300, "keyint_sec": 1, "bf": 2, "preset": ` +
			map[string]string{"obs_x264": `"ultrafast"`, "ffmpeg_svt_av1": "10"}[o.encoder] + `}`,
		"basic/profiles/test/service.json": fmt.Sprintf(
			`{"type": "rtmp_custom", "settings": {"server": %q, "key": %q, "use_auth": %t, "username": %q, "password": %q}}`,
			o.server, o.key, o.user != "", o.user, password),
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
	return startEnv(t, []string{"HOME=" + home, "DISPLAY=" + o.display, "LIBGL_ALWAYS_SOFTWARE=1", "XDG_RUNTIME_DIR=/tmp"},
		obs, "--multi", "--startstreaming", "--minimize-to-tray", "--disable-shutdown-check", "--disable-missing-files-check",
		"--profile", "test", "--collection", "test")
}
