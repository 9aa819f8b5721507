//go:build interop

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nareix/joy4/av"
	joyflv "github.com/nareix/joy4/format/flv"
	joyrtmp "github.com/nareix/joy4/format/rtmp"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/flv"
)

// patience is the longest that anything here may take.
const patience = 60 * time.Second

// packages maps each program to its Debian package.
var packages = map[string]string{
	"curl":           "curl",
	"ffmpeg":         "ffmpeg",
	"nginx":          "nginx",
	"rtmpdump":       "rtmpdump",
	"gst-launch-1.0": "gstreamer1.0-tools",
	"Xvfb":           "xvfb",
}

// elements maps each GStreamer element to its Debian package.
var elements = map[string]string{
	"filesrc":   "libgstreamer1.0-0",
	"flvmux":    "gstreamer1.0-plugins-good",
	"rtmp2sink": "gstreamer1.0-plugins-bad",
	"rtmpsink":  "gstreamer1.0-plugins-bad",
}

const nginxModule = "/usr/lib/nginx/modules/ngx_rtmp_module.so"

// need finds a program.
func need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is not installed: apt-get install %s", program, packages[program])
	}
	return path
}

// needAll finds all programs, so that everything missing is reported together.
func needAll(t testing.TB) {
	t.Helper()
	for program := range packages {
		need(t, program)
	}
	for element, pkg := range elements {
		if err := exec.Command("gst-inspect-1.0", "--exists", element).Run(); err != nil {
			t.Fatalf("GStreamer's %s is not installed: apt-get install %s", element, pkg)
		}
	}
}

// run runs a program to its end.
func run(t testing.TB, program string, args ...string) []byte {
	t.Helper()
	p := start(t, program, args...)
	require.NoError(t, p.wait())
	return p.out.Bytes()
}

// process is a running program.
type process struct {
	name string
	cmd  *exec.Cmd
	out  buffer // standard output
	log  buffer // standard error
	done chan struct{}
	err  error
}

// start starts a program, which is killed when the test ends.
func start(t testing.TB, program string, args ...string) *process {
	t.Helper()
	return startEnv(t, nil, program, args...)
}

// startEnv is start with additional environment variables.
func startEnv(t testing.TB, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{name: program, cmd: exec.Command(need(t, program), args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(p.kill)
	return p
}

// kill kills p and waits for its end.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

func (p *process) signal(t testing.TB, s os.Signal) { require.NoError(t, p.cmd.Process.Signal(s)) }

// wait waits until p exits.
func (p *process) wait() error {
	select {
	case <-p.done:
	case <-time.After(patience):
		p.kill()
		return fmt.Errorf("%s has not ended after %v: %s", p.name, patience, p.log.tail())
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w: %s", p.name, p.err, p.log.tail())
	}
	return nil
}

// buffer is a bytes.Buffer for concurrent use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b.Bytes())
}

func (b *buffer) tail() string {
	s := strings.TrimSpace(string(b.Bytes()))
	return s[max(0, len(s)-1000):]
}

// nginx is nginx-rtmp.
type nginx struct {
	*process
	addr string
	conf string
	log  string
}

// newNginx starts nginx-rtmp with these apps:
//
//	live  takes publishers and players
//	deny  refuses publishers
//	relay pushes what is published to pushTo
func newNginx(t testing.TB, pushTo string) *nginx {
	t.Helper()
	if _, err := os.Stat(nginxModule); err != nil {
		t.Fatal("nginx-rtmp is not installed: apt-get install libnginx-mod-rtmp")
	}
	dir := t.TempDir()
	n := &nginx{addr: freeAddr(t), conf: filepath.Join(dir, "nginx.conf"), log: filepath.Join(dir, "error.log")}
	relay := ""
	if pushTo != "" {
		relay = "application relay { live on; push rtmp://" + pushTo + "/relay; }"
	}
	conf := fmt.Sprintf(`
load_module %s;
daemon off;
master_process off;
pid %s/nginx.pid;
error_log %s info;
events { worker_connections 128; }
rtmp {
	server {
		listen %s;
		chunk_size 4096;
		max_message 8M;
		out_queue 4096;
		publish_notify on;
		application live { live on; idle_streams on; }
		application deny { live on; deny publish all; }
		%s
	}
}
`, nginxModule, dir, n.log, n.addr, relay)
	require.NoError(t, os.WriteFile(n.conf, []byte(conf), 0o600))
	n.start(t)
	return n
}

// start starts nginx, for the first time or again.
func (n *nginx) start(t testing.TB) {
	t.Helper()
	n.process = start(t, "nginx", "-p", filepath.Dir(n.conf), "-c", n.conf, "-e", n.log)
	eventually(t, "nginx to accept", func() bool {
		nc, err := net.Dial("tcp", n.addr)
		if err != nil {
			return false
		}
		nc.Close()
		return true
	})
}

// logged waits until nginx's log has this many matches.
func (n *nginx) logged(t testing.TB, pattern string, times int) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	eventually(t, "nginx to log "+pattern, func() bool {
		b, err := os.ReadFile(n.log)
		return err == nil && len(re.FindAll(b, -1)) >= times
	})
}

// freeAddr reserves an address that nobody listens on, for a program of this test.
// Until the test ends the port is not given to anyone else: a socket is bound to it,
// beside which another may listen.
func freeAddr(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1))
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	sa, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	return fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
}

// eventually waits for a condition that other processes cause.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	require.NoError(t, poll(what, cond))
}

func poll(what string, cond func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			return fmt.Errorf("no sign of %s in %v", what, patience)
		}
	}
	return nil
}

// publisher is a program that publishes a clip to url in real time.
type publisher struct {
	name    string
	can     func(*clip) bool
	rule    rule
	publish func(t *testing.T, c *clip, url string) error
	// muxed is the clip as the peer remuxes it; nil if unchanged.
	muxed func(t *testing.T, c *clip) []tag
}

// stream is the stream name that p publishes.
func (p publisher) stream() string { return "from-" + strings.ReplaceAll(p.name, " ", "-") }

var publishers = []publisher{
	{"ffmpeg " + ffmpegVersion("ffmpeg"), classic, rule{}, func(t *testing.T, c *clip, url string) error {
		return ffmpegPublish(t, "ffmpeg", c, url)
	}, nil},
	{"GStreamer rtmp2sink", classic, rule{}, func(t *testing.T, c *clip, url string) error {
		return start(t, "gst-launch-1.0", gstPipeline(c, "rtmp2sink", "location="+url, "sync=true")...).wait()
	}, gstMuxed},
	{"librtmp (rtmpsink)", rtmpsinkCan, rule{}, func(t *testing.T, c *clip, url string) error {
		return start(t, "gst-launch-1.0", gstPipeline(c, "rtmpsink", "location="+url+" live=1", "sync=true")...).wait()
	}, gstMuxed},
	{"joy4", joyCan, rule{sound: true, remuxed: true}, joyPublish, nil},
}

// ffmpegPublish publishes with an FFmpeg and these output options.
func ffmpegPublish(t *testing.T, program string, c *clip, url string, options ...string) error {
	return start(t, program, slices.Concat([]string{"-v", "error", "-nostdin", "-re", "-copyts", "-i", c.path, "-c", "copy", "-f", "flv"},
		options, []string{url})...).wait()
}

// ffmpegPlay plays with an FFmpeg and these input options.
func ffmpegPlay(t *testing.T, program, url string, options ...string) ([]tag, error) {
	return recorded(t, program, func(out string) []string {
		return slices.Concat([]string{"-v", "error", "-nostdin", "-copyts"}, options, []string{"-i", url, "-c", "copy", "-f", "flv", out})
	})
}

// classic are the clips that a peer without Enhanced RTMP can parse.
func classic(c *clip) bool { return c.classic }

func anything(*clip) bool { return true }

// rtmpsinkCan: rtmpsink sends sequence headers only at the start.
func rtmpsinkCan(c *clip) bool { return c.classic && c.name != "resolution-change" }

// joyCan: joy4 supports H.264 and AAC with one sequence header each.
func joyCan(c *clip) bool {
	return c.classic && c.name != "mp3_only" && c.name != "resolution-change"
}

// gstPipeline demuxes a clip and muxes it again.
func gstPipeline(c *clip, sink ...string) []string {
	args := []string{"-q", "filesrc", "location=" + c.path, "!", "flvdemux", "name=in",
		"flvmux", "name=out", "streamable=true", "!"}
	args = append(args, sink...)
	if len(frames(c.tags, flv.TypeVideo)) > 0 {
		args = append(args, "in.video", "!", "queue", "!", "out.video")
	}
	if len(frames(c.tags, flv.TypeAudio)) > 0 {
		args = append(args, "in.audio", "!", "queue", "!", "out.audio")
	}
	return args
}

// gstMuxed is flvmux's output for a clip: for example, it uses presentation timestamps.
func gstMuxed(t *testing.T, c *clip) []tag {
	out := filepath.Join(t.TempDir(), "out.flv")
	run(t, "gst-launch-1.0", gstPipeline(c, "filesink", "location="+out)...)
	tags, err := readFLV(out)
	require.NoError(t, err)
	return tags
}

func joyPublish(t *testing.T, c *clip, url string) error {
	f, err := os.Open(c.path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := joyflv.NewDemuxer(f)
	streams, err := in.Streams()
	if err != nil {
		return err
	}
	out, err := joyrtmp.DialTimeout(url, patience)
	if err != nil {
		return err
	}
	defer out.Close()
	out.NetConn().SetDeadline(time.Now().Add(patience))
	if err := out.WriteHeader(streams); err != nil {
		return err
	}
	began := time.Now()
	for {
		pkt, err := in.ReadPacket()
		if err != nil { // the end of the file
			return out.WriteTrailer()
		}
		<-time.After(time.Until(began.Add(pkt.Time)))
		if err := out.WritePacket(pkt); err != nil {
			return err
		}
	}
}

// player is a program that plays url until the publisher has left, and returns what it
// received.
type player struct {
	name string
	can  func(*clip) bool
	rule rule
	play func(t *testing.T, c *clip, url string, ended <-chan struct{}) ([]tag, error)
}

var players = []player{
	{"ffmpeg " + ffmpegVersion("ffmpeg"), classic, rule{}, func(t *testing.T, _ *clip, url string, _ <-chan struct{}) ([]tag, error) {
		return ffmpegPlay(t, "ffmpeg", url)
	}},
	{"GStreamer rtmp2src", anything, rule{cut: 3}, func(t *testing.T, _ *clip, url string, _ <-chan struct{}) ([]tag, error) {
		return recorded(t, "gst-launch-1.0", func(out string) []string {
			return []string{"-q", "rtmp2src", "location=" + url, "!", "filesink", "location=" + out}
		})
	}},
	{"librtmp (rtmpdump)", anything, rule{}, func(t *testing.T, _ *clip, url string, _ <-chan struct{}) ([]tag, error) {
		return rtmpdump(t, url)
	}},
	{"joy4", joyCan, rule{sound: true, remuxed: true}, joyPlay},
}

// receivers listen on url for one publisher, the forwarder, and return what they have
// received.
var receivers = []player{
	{"ffmpeg " + ffmpegVersion("ffmpeg"), classic, rule{}, func(t *testing.T, _ *clip, url string, _ <-chan struct{}) ([]tag, error) {
		return ffmpegPlay(t, "ffmpeg", url, "-listen", "1")
	}},
	{"joy4", joyCan, rule{sound: true, remuxed: true}, joyReceive},
}

func rtmpdump(t *testing.T, url string) ([]tag, error) {
	return recorded(t, "rtmpdump", func(out string) []string {
		return []string{"-q", "--live", "--timeout", "60", "-r", url, "-o", out}
	})
}

// recorded runs a program that writes an FLV file.
func recorded(t *testing.T, program string, args func(out string) []string) ([]tag, error) {
	out := filepath.Join(t.TempDir(), "out.flv")
	p := start(t, program, args(out)...)
	err := p.wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && program == "rtmpdump" && exit.ExitCode() == 2 {
		err = nil // less than 99.9 % of the duration in the metadata
	}
	tags, rerr := readFLV(out)
	if err == nil {
		err = rerr
	}
	return tags, err
}

// joyPlay reads until ended is closed and nothing more has come for a while: joy4 does
// not report the end of the stream.
func joyPlay(_ *testing.T, _ *clip, url string, ended <-chan struct{}) ([]tag, error) {
	in, err := joyrtmp.DialTimeout(url, patience)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	nc := in.NetConn()
	nc.SetDeadline(time.Now().Add(patience))
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-ended:
			nc.SetReadDeadline(time.Now().Add(2 * time.Second))
		case <-stop:
		}
	}()
	out, err := joyRead(in)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return out, err
}

// joyReceive runs joy4's server as a process of its own, because it cannot be stopped.
func joyReceive(t *testing.T, _ *clip, url string, _ <-chan struct{}) ([]tag, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out := filepath.Join(t.TempDir(), "out.flv")
	if err := startEnv(t, []string{joyEnv + "=" + url + " " + out}, exe).wait(); err != nil {
		return nil, err
	}
	return readFLV(out)
}

// joyServe listens on url and writes the first publisher's stream to a file.
func joyServe(url, path string) error {
	u, err := joyrtmp.ParseURL(url)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	s := &joyrtmp.Server{Addr: u.Host, HandlePublish: func(in *joyrtmp.Conn) {
		defer in.Close()
		got, err := joyRead(in)
		if errors.Is(err, io.EOF) {
			err = writeFLV(path, got)
		}
		ended <- err
	}}
	go func() { ended <- s.ListenAndServe() }()
	return <-ended
}

// joyRead reads until an error.
func joyRead(in *joyrtmp.Conn) (out []tag, err error) {
	streams, err := in.Streams()
	if err != nil {
		return nil, err
	}
	for _, s := range streams {
		if header, ok, err := joyflv.CodecDataToTag(s); err != nil {
			return nil, err
		} else if ok {
			if s.Type() == av.H264 {
				out = append(out, tag{flv.TypeVideo, 0, append([]byte{0x17, 0, 0, 0, 0}, header.Data...)})
			} else {
				out = append(out, tag{flv.TypeAudio, 0, append([]byte{0xaf, 0}, header.Data...)})
			}
		}
	}
	for {
		pkt, err := in.ReadPacket()
		if err != nil {
			return out, err
		}
		out = append(out, joyTag(streams, pkt))
	}
}

// joyTag returns the message that pkt was made from.
func joyTag(streams []av.CodecData, pkt av.Packet) tag {
	ms := uint32(pkt.Time / time.Millisecond)
	if streams[pkt.Idx].Type() != av.H264 {
		return tag{flv.TypeAudio, ms, append([]byte{0xaf, 1}, pkt.Data...)}
	}
	first := byte(0x27)
	if pkt.IsKeyFrame {
		first = 0x17
	}
	ct := int32(pkt.CompositionTime / time.Millisecond)
	return tag{flv.TypeVideo, ms, append([]byte{first, 1, byte(ct >> 16), byte(ct >> 8), byte(ct)}, pkt.Data...)}
}

// sleepUntil waits in real time, like an encoder.
func sleepUntil(ctx context.Context, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
