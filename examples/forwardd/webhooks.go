package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/srs"
	"github.com/rtmp-forward/forward/webhooks"
)

// teller sends the events of the server to the URL of the webhooks block.
type teller struct {
	sender *webhooks.Sender
	cancel context.CancelFunc
	done   chan struct{}
}

func webhookOptions(h *srs.WebhooksFile, log *slog.Logger) webhooks.Options {
	return webhooks.Options{URL: h.URL, Secrets: h.Secrets, Kinds: h.Kinds, Names: h.Names, Timeout: h.Timeout, Logger: log}
}

// startTelling tells h of the events from now on.
func startTelling(srv *forward.Server, h *srs.WebhooksFile, log *slog.Logger) (*teller, error) {
	s, err := webhooks.New(webhookOptions(h, log))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &teller{s, cancel, make(chan struct{})}
	events := srv.Events(ctx)
	go func() {
		defer close(t.done)
		if err := s.Run(ctx, events); err != nil && !errors.Is(err, context.Canceled) {
			log.Warn("webhooks", "err", err)
		}
	}()
	return t, nil
}

// stop drops what is not sent.
func (t *teller) stop() {
	t.cancel()
	<-t.done
}

// tellGrace is how long the receiver may take for the last events.
const tellGrace = 2 * time.Second

// finish sends the last events of a server that has ended.
func (t *teller) finish(log *slog.Logger) {
	select {
	case <-t.done:
	case <-time.After(tellGrace):
		log.Warn("webhooks: the last events were not taken in time")
	}
	t.stop()
}

// reloadTeller changes from what the file had to what it has.
func (d *daemon) reloadTeller(h *srs.WebhooksFile) {
	var err error
	switch {
	case h == nil && d.teller != nil:
		d.teller.stop()
		d.teller = nil
	case h == nil:
	case d.teller == nil:
		d.teller, err = startTelling(d.srv, h, d.log)
	default:
		err = d.teller.sender.Reload(webhookOptions(h, d.log))
	}
	if err != nil {
		d.log.Error("webhooks not reloaded", "err", err)
	}
}
