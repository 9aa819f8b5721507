//go:build interop

package interop

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/srs"
)

// leaves and stays are the matrix roles of players whose stream ends for good, or for a
// while.
const (
	leaves = "plays, leaves at the end"
	stays  = "plays, stays at the end"
)

// TestEndPlayers ends the stream once, at a master and at a slave. A player that is told
// about the end has received the whole stream, leaves by itself and does not return. A
// player that is not told gets the next publish as well, and leaves after player_wait.
func TestEndPlayers(t *testing.T) {
	needAll(t)
	for name, tt := range map[string]struct {
		play  string // the file's directives; empty: no file
		cfg   forward.Config
		turns int // publishes that a player stays for
		leave bool
	}{
		"on, from Go":           {cfg: forward.Config{EndPlayers: true}, turns: 1, leave: true},
		"end_players on":        {play: "end_players on;", turns: 1, leave: true},
		"end_players off":       {play: "end_players off;", turns: 2},
		"nothing said":          {play: "gop_cache on;", turns: 2},
		"off, player_wait 15 s": {play: "end_players off; player_wait 15000;", turns: 2, leave: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := func() forward.Config {
				if tt.play == "" {
					return tt.cfg
				}
				file, err := srs.ParseConfig("srs.conf", []byte("listen 127.0.0.1:1935;\nvhost __defaultVhost__ {\n\tplay { "+tt.play+" }\n}\n"))
				require.NoError(t, err)
				return file.Config
			}
			slave := serve(t, cfg())
			to := cfg()
			to.Resolver = forward.MustStatic(slave.addr)
			master := serve(t, to)
			servers := map[string]*server{"master": master, "slave": slave}
			var players []*looped
			for at, s := range servers {
				url := s.url("live/livestream")
				players = append(players, startLooped(t, url, at)...)
				if newFFmpeg != "" {
					out := filepath.Join(t.TempDir(), at+".flv")
					players = append(players, &looped{"ffmpeg, newer", at, start(t, newFFmpeg, "-v", "error", "-nostdin", "-copyts", "-i", url, "-c", "copy", "-f", "flv", out), out, 0})
				}
			}
			for _, s := range servers {
				eventually(t, "players to be accepted", func() bool { return s.plays.Load() == int64(len(players)/2) })
			}

			c := h264aac(t)
			var want []tag
			for range tt.turns {
				for _, p := range players {
					require.False(t, p.ended(), "%s at the %s has left", p.name, p.at)
				}
				require.NoError(t, ffmpegPublish(t, "ffmpeg", c, master.url("live/livestream")))
				want = append(want, c.tags...)
			}
			if !tt.leave {
				for _, s := range []*server{master, slave} {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					for _, p := range players {
						require.True(t, servers[p.at] != s || !p.ended(), "%s at the %s has left", p.name, p.at)
					}
					require.NoError(t, s.Shutdown(ctx))
				}
			}
			role, column := stays, &clip{name: "end: " + name}
			if tt.leave {
				role = leaves
			}
			for _, p := range players {
				err := p.check(t, want, true)
				table.set(role+", "+p.at, p.name, column, err)
				if err != nil {
					t.Errorf("%s at the %s: %v", p.name, p.at, err)
				}
			}
			for at, s := range servers {
				require.EqualValues(t, len(players)/2, s.plays.Load(), "nobody has come again at the %s", at)
			}
		})
	}
}

// ended reports whether p has exited.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
