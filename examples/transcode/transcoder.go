package main

import (
	"context"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
)

// transcoders runs one process for each stream.
type transcoders struct {
	command  []string
	stderr   io.Writer // of the processes
	log      *slog.Logger
	server   string         // host:port
	token    forward.Secret // token that allows publishing to the transcoded vhost
	min, max time.Duration  // pause between the end of a process and the next start

	mu      sync.Mutex
	running map[*forward.Request]*transcoder
	latest  map[string]*transcoder // by stream name
}

// transcoder is the process of one publish.
type transcoder struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// start transcodes a stream until stop.
func (t *transcoders) start(req *forward.Request) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &transcoder{cancel: cancel, done: make(chan struct{})}
	t.mu.Lock()
	if t.running == nil {
		t.running = make(map[*forward.Request]*transcoder)
		t.latest = make(map[string]*transcoder)
	}
	before := t.latest[req.Name()]
	t.running[req], t.latest[req.Name()] = p, p
	t.mu.Unlock()
	go func() {
		defer close(p.done)
		if before != nil {
			<-before.done // the previous one is ending and publishes the same name
		}
		t.run(ctx, req)
	}()
}

// stop ends the process and waits for its exit.
func (t *transcoders) stop(req *forward.Request) {
	t.mu.Lock()
	p := t.running[req]
	t.mu.Unlock()
	p.cancel()
	<-p.done
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, req)
	if t.latest[req.Name()] == p {
		delete(t.latest, req.Name())
	}
}

// run starts a process, and restarts it whenever it ends, until ctx does.
func (t *transcoders) run(ctx context.Context, req *forward.Request) {
	log := t.log.With("client", req.ClientID)
	pause := t.min
	for ctx.Err() == nil {
		began := time.Now()
		err := t.process(ctx, log, req)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > t.max {
			pause = t.min
		}
		log.Warn("transcoder ended", "err", err, "again_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, t.max)
	}
	log.Info("transcoder stopped")
}

// process runs one process. When ctx ends, it is interrupted, and killed if it has not
// exited within 5 s.
func (t *transcoders) process(ctx context.Context, log *slog.Logger, req *forward.Request) error {
	name := req.App + "/" + req.Stream
	query := url.Values{"vhost": {transcoded}, "token": {string(t.token)}}
	urls := strings.NewReplacer(
		"{in}", "rtmp://"+t.server+"/"+name,
		"{out}", "rtmp://"+t.server+"/"+name+"?"+query.Encode(),
	)
	args := make([]string, len(t.command))
	for i, word := range t.command {
		args[i] = urls.Replace(word)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = t.stderr, t.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	log.Info("transcoder started", "pid", cmd.Process.Pid)
	return cmd.Wait()
}
