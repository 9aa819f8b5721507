//go:build interop

package interop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/srs"
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if child() {
		return 0
	}
	var err error
	if mediaDir, err = os.MkdirTemp("", "interop"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(mediaDir)
	addNewer()
	defer table.print()
	return leaktest.Run(m.Run)
}

// table collects the results of TestMatrix.
var table results

type results struct {
	mu         sync.Mutex
	rows, cols []string
	cells      map[[2]string]string
}

// The roles of the matrix, in the order of its rows.
const (
	publishes   = "publishes"
	plays       = "plays"
	playsLate   = "plays, late"
	destination = "destination"

	// Over TLS, and to a server that requires a password.
	publishesTLS   = "publishes, rtmps"
	playsTLS       = "plays, rtmps"
	destinationTLS = "destination, rtmps"
	withPassword   = "publishes, password"
	withLimelight  = "publishes, password, llnw"
)

func (r *results) set(role, peer string, c *clip, err error) {
	r.note(role, peer, c, map[bool]string{true: "ok", false: "FAIL"}[err == nil])
}

// cannot records that a peer does not support a clip's contents or a role.
func (r *results) cannot(role, peer string, c *clip) { r.note(role, peer, c, "—") }

func (r *results) note(role, peer string, c *clip, cell string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cells == nil {
		r.cells = make(map[[2]string]string)
	}
	row := fmt.Sprintf("%-43s %s", role, peer)
	if !slices.Contains(r.rows, row) {
		r.rows = append(r.rows, row)
	}
	if !slices.Contains(r.cols, c.name) {
		r.cols = append(r.cols, c.name)
	}
	at := [2]string{row, c.name}
	if r.cells[at] != "FAIL" { // a cell that is checked in several places
		r.cells[at] = cell
	}
}

// print prints a row for each peer and role and a column for each clip.
func (r *results) print() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rows) == 0 {
		return
	}
	slices.Sort(r.rows)
	slices.Sort(r.cols)
	fmt.Println("\nPayloads, order and times equal on both ends (—: the peer cannot):")
	for i, col := range r.cols {
		fmt.Printf("  %2d %s\n", i+1, col)
	}
	fmt.Printf("%-67s", "")
	for i := range r.cols {
		fmt.Printf("%5d", i+1)
	}
	fmt.Println()
	for _, row := range r.rows {
		fmt.Printf("%-67s", row)
		for _, col := range r.cols {
			fmt.Printf("%5s", r.cells[[2]string{row, col}])
		}
		fmt.Println()
	}
	for _, peer := range absent() {
		fmt.Println("absent:", peer)
	}
	fmt.Println()
}

// TestMatrix publishes each clip with every publisher that supports its codecs, pushes
// it from a master to a slave of ours, to nginx-rtmp and to every receiver, and plays
// it with every player.
func TestMatrix(t *testing.T) {
	needAll(t)
	clips := repository(t)
	for _, make := range generated {
		clips = append(clips, make(t))
	}
	if newFFmpeg != "" {
		for _, make := range modern {
			clips = append(clips, make(t))
		}
	}
	for _, c := range clips {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			newWorld(t, c).run()
		})
	}
}

// world is the topology for one clip: a master, which forwards to a slave, to
// receivers, and to nginx, which again pushes to the slave.
type world struct {
	t             *testing.T
	c             *clip
	master, slave *server
	nginx         *nginx
	ctx           context.Context
	wg            sync.WaitGroup
	live          []chan struct{} // closed when raw players are accepted
	half          chan struct{}   // closed in the middle of the clip
	ended         chan struct{}   // closed after it
}

func newWorld(t *testing.T, c *clip) *world {
	w := &world{t: t, c: c, half: make(chan struct{}), ended: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	w.ctx = ctx
	w.slave = newServer(t, forward.Config{})
	w.nginx = newNginx(t, w.slave.addr)
	to := []string{w.slave.addr, w.nginx.addr, "rtmp://" + w.nginx.addr + "/relay/[stream]"}
	inside := forward.MustStatic(append(to, w.startReceivers()...)...)
	others := forward.MustStatic(w.slave.addr)
	w.master = newServer(t, forward.Config{
		Resolver: forward.ResolverFunc(func(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
			if req.Stream == "inside" {
				return inside.ResolveDestinations(ctx, req)
			}
			return others.ResolveDestinations(ctx, req)
		}),
	})
	return w
}

func (w *world) run() {
	waiting := w.startPlayers()
	w.raw(w.slave.addr, "live", "inside", destination, "forward", checkAll)
	atNginx := 0 // raw players at each server
	if enhancedVideo(w.c) {
		table.cannot(destination, "nginx-rtmp", w.c)
		table.cannot(publishes, "nginx-rtmp (push)", w.c)
	} else {
		atNginx++
		w.raw(w.nginx.addr, "live", "inside", destination, "nginx-rtmp", ruled)
		w.raw(w.slave.addr, "relay", "inside", publishes, "nginx-rtmp (push)", ruled)
	}
	for _, p := range publishers {
		if !p.can(w.c) {
			table.cannot(publishes, p.name, w.c)
			continue
		}
		want := w.c.tags
		if p.muxed != nil {
			want = p.muxed(w.t, w.c)
		}
		w.published(w.master.addr, p.stream(), publishes, p.name, want, p.rule)
	}
	w.awaitRaw()
	eventually(w.t, "the players of ours", func() bool {
		return w.slave.plays.Load()+w.master.plays.Load() == int64(waiting+len(w.live)-atNginx)
	})
	if players[0].can(w.c) {
		atNginx++
	}
	w.nginx.logged(w.t, "play: name='inside'", atNginx)

	for _, p := range publishers {
		if p.can(w.c) {
			w.wg.Go(func() {
				if err := p.publish(w.t, w.c, w.master.url("live/"+p.stream())); err != nil {
					w.t.Errorf("%s publishes: %v", p.name, err)
				}
			})
		}
	}
	half := false
	err := w.master.publish(w.t, "inside", w.c, func() {
		eventually(w.t, "nginx to push", func() bool { return w.slave.Source("relay/inside") != nil })
	}, func(ms uint32) {
		if !half && ms >= w.c.ms()/2 {
			half = true
			close(w.half)
		}
	})
	close(w.ended)
	require.NoError(w.t, err)
	w.wg.Wait()
}

// startReceivers starts the receivers and returns their addresses.
func (w *world) startReceivers() (addrs []string) {
	for _, r := range receivers {
		if !r.can(w.c) {
			table.cannot(destination, r.name, w.c)
			continue
		}
		addr := freeAddr(w.t)
		addrs = append(addrs, addr)
		w.player(r, "rtmp://"+addr+"/live/inside", r.rule, destination, r.name, nil)
	}
	return addrs
}

// startPlayers starts the players of the slave and of nginx and returns how many of
// them wait at the slave.
func (w *world) startPlayers() (n int) {
	for _, p := range players {
		if !p.can(w.c) {
			table.cannot(plays, p.name, w.c)
			table.cannot(playsLate, p.name, w.c)
			continue
		}
		n++
		w.player(p, w.slave.url("live/inside"), p.rule, plays, p.name, nil)
		r := p.rule
		r.late = true
		w.player(p, w.slave.url("live/inside"), r, playsLate, p.name, w.half)
	}
	if ffmpeg := players[0]; ffmpeg.can(w.c) {
		w.player(ffmpeg, "rtmp://"+w.nginx.addr+"/live/inside", rule{}, destination, "nginx-rtmp, to ffmpeg", nil)
	} else {
		table.cannot(destination, "nginx-rtmp, to ffmpeg", w.c)
	}
	return n
}

func (w *world) player(p player, url string, r rule, role, name string, after <-chan struct{}) {
	w.wg.Go(func() {
		if after != nil {
			select {
			case <-after:
			case <-w.ctx.Done():
				return
			}
		}
		began := time.Now()
		got, err := p.play(w.t, w.c, url, w.ended)
		if err == nil {
			err = checkRun(w.c.tags, got, r)
		}
		table.set(role, name, w.c, err)
		if err != nil {
			w.t.Errorf("%s %s, %v: %v", name, role, time.Since(began).Round(time.Millisecond), err)
		}
	})
}

// ruled is checkRun for peers with no exceptions.
func ruled(want, got []tag) error { return checkRun(want, got, rule{}) }

// raw starts a raw player.
func (w *world) raw(addr, app, stream, role, name string, check func(want, got []tag) error) {
	accepted := make(chan struct{})
	w.live = append(w.live, accepted)
	w.wg.Go(func() {
		got, err := playRaw(w.ctx, addr, app, stream, accepted)
		if err == nil {
			err = check(w.c.tags, got)
		}
		table.set(role, name, w.c, err)
		if err != nil {
			w.t.Errorf("%s %s: %v", name, role, err)
		}
	})
}

// published plays a publisher's stream with raw players: at the server it publishes to,
// and at the slave, to which that server pushes.
func (w *world) published(addr, stream, role, name string, want []tag, r rule) {
	check := func(r rule) func(_, got []tag) error {
		return func(_, got []tag) error { return checkRun(want, got, r) }
	}
	w.raw(addr, "live", stream, role, name, check(r))
	r.pushed = true
	w.raw(w.slave.addr, "live", stream, role, name, check(r))
}

// awaitRaw waits until all raw players are accepted.
func (w *world) awaitRaw() {
	for _, accepted := range w.live {
		select {
		case <-accepted:
		case <-w.ctx.Done():
			w.t.Fatal("a raw player was not accepted")
		}
	}
}

// TestSeedCluster is the example of SRS's documentation: a master with its
// configuration file, and four slaves, two of them nginx-rtmp. From each slave ffmpeg
// plays exactly what ffmpeg has published.
func TestSeedCluster(t *testing.T) {
	for _, make := range generated {
		c := make(t)
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			seedCluster(t, c)
		})
	}
}

func seedCluster(t *testing.T, c *clip) {
	slaves := []*server{fromFile(t, "slave.1935.conf", nil), fromFile(t, "slave.1936.conf", nil)}
	peers := []*nginx{newNginx(t, ""), newNginx(t, "")}
	master := fromFile(t, "master.conf", map[string]string{
		"192.168.1.6:1935": slaves[0].addr,
		"192.168.1.6:1936": slaves[1].addr,
		"192.168.1.7:1935": peers[0].addr,
		"192.168.1.7:1936": peers[1].addr,
	})
	want := framesOf(t, c.path)

	var played []*process
	for _, addr := range []string{slaves[0].addr, slaves[1].addr, peers[0].addr, peers[1].addr} {
		played = append(played, startFrameMD5(t, "rtmp://"+addr+"/live/livestream"))
	}
	for i := range slaves {
		eventually(t, "ffmpeg to play", func() bool { return slaves[i].plays.Load() == 1 })
		peers[i].logged(t, "play: name='livestream'", 1)
	}
	publisher := start(t, "ffmpeg", "-v", "error", "-nostdin", "-re", "-copyts", "-i", c.path,
		"-c", "copy", "-f", "flv", master.url("live/livestream"))
	eventually(t, "the stream at a slave", func() bool { return slaves[1].Source("live/livestream") != nil })
	late := startLate(t, slaves[1], c)
	require.NoError(t, publisher.wait())
	for i, p := range played {
		require.NoError(t, p.wait())
		require.NoError(t, checkFrames(want, parseFrames(t, p.out.Bytes()), false), "slave %d", i+1)
	}
	require.NoError(t, late.wait())
	require.NoError(t, checkFrames(want, parseFrames(t, late.out.Bytes()), true), "a late player")
}

// startLate starts a player after half of the clip.
func startLate(t *testing.T, s *server, c *clip) *process {
	src := s.Source("live/livestream")
	sub := src.Subscribe(t.Context())
	defer sub.Close()
	for {
		m, err := sub.Next()
		require.NoError(t, err)
		if m.Timestamp >= c.ms()/2 {
			return startFrameMD5(t, s.url("live/livestream"))
		}
	}
}

// fromFile is a server with one of the documentation's configurations. dial redirects
// its addresses.
func fromFile(t *testing.T, name string, dial map[string]string) *server {
	file, err := srs.LoadConfig(filepath.Join("../../testdata/conf", name))
	require.NoError(t, err)
	cfg := file.Config
	cfg.Dial = dialTo(dial)
	return newServer(t, cfg)
}

// framePacket is a line of ffmpeg's framemd5.
type framePacket struct{ media, dts, pts, size, hash string }

func startFrameMD5(t *testing.T, url string) *process {
	return start(t, "ffmpeg", "-v", "error", "-nostdin", "-copyts", "-i", url, "-c", "copy", "-f", "framemd5", "-")
}

func framesOf(t *testing.T, path string) []framePacket {
	p := startFrameMD5(t, path)
	require.NoError(t, p.wait())
	return parseFrames(t, p.out.Bytes())
}

func parseFrames(t *testing.T, out []byte) []framePacket {
	media := make(map[string]string) // by stream
	var frames []framePacket
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, "#media_type "); ok {
			stream, kind, _ := strings.Cut(strings.TrimSpace(rest), ": ")
			media[stream] = kind
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, ",")
		require.GreaterOrEqual(t, len(f), 6, line)
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		frames = append(frames, framePacket{media[f[0]], f[1], f[2], f[4], f[5]})
	}
	return frames
}

// checkFrames compares the packets of each medium: those played are the last ones
// published, or all of them for a player that was there from the start.
func checkFrames(want, got []framePacket, late bool) error {
	for _, media := range []string{"video", "audio"} {
		other := func(p framePacket) bool { return p.media != media }
		w, g := slices.DeleteFunc(slices.Clone(want), other), slices.DeleteFunc(slices.Clone(got), other)
		at := len(w) - len(g)
		switch {
		case at < 0, len(w) > 0 && len(g) == 0, media == "video" && !late && at > 0, media == "audio" && !late && at > 40:
			return fmt.Errorf("%s: %d packets of %d", media, len(g), len(w))
		case late && len(w) > 0 && at == 0:
			return fmt.Errorf("%s: a late player got everything", media)
		}
		for i := range g {
			if g[i] != w[at+i] {
				return fmt.Errorf("%s: packet %d of %d is %v, published was %v", media, i, len(g), g[i], w[at+i])
			}
		}
	}
	return nil
}
