package forwardtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"strings"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Client publishes and plays. The zero Client uses TCP; zero fields have the defaults
// given with them.
type Client struct {
	// URL is rtmp://host[:port]/app/name, with an optional query: the name begins after
	// the last "/" before a "?". Default "rtmp://localhost:1935/live/stream".
	URL string
	// Dial connects; see Network.Dial, Direct and FaultDial. Default a
	// net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// User and Password answer a server that asks for them (authmod=adobe
	// and llnw); then Dial is called for each of the connections it takes.
	User, Password string
	// FlashVer is flashVer in connect, by default FMLE's of publishers, a
	// Flash player's of players.
	FlashVer string
	// ChunkSize of what is sent, in bytes, at least 6. Default 4096.
	ChunkSize int
	// Bare leaves out releaseStream and FCPublish.
	Bare bool
	// DigestHandshake makes the handshake with digests.
	DigestHandshake bool
	// StopBefore makes a client that stops before a step: connect, createStream,
	// publish or play. Publish and Play then return as if they had been accepted.
	StopBefore string
}

// StatusError is a refusal by the server.
type StatusError struct {
	Step        string // connect, createStream, publish, play; stream when it came later
	Code        string // such as NetStream.Publish.BadName
	Description string // for people
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("forwardtest: %s refused: %s: %s", e.Step, e.Code, e.Description)
}

// RefusalCode is the code of the StatusError in err, empty if there is none.
func RefusalCode(err error) string {
	var st *StatusError
	if errors.As(err, &st) {
		return st.Code
	}
	return ""
}

// Publisher publishes a stream. One goroutine may use it, but Reset, Close and the
// methods that wait for the server may be called by any. Err is a *StatusError if the
// server has ended the stream with a status.
type Publisher struct {
	*peer
	client *rtmp.Client
	paced  bool
	epoch  time.Time // when the first paced message was due
	first  uint32    // and its timestamp
}

// Publish connects and publishes. It returns when the server has accepted the publish,
// with a *StatusError if the server has refused it, or when ctx ends.
func (c Client) Publish(ctx context.Context) (*Publisher, error) {
	p, client, err := c.open(ctx, new(Recorder), (*rtmp.Client).Publish)
	if err != nil {
		return nil, err
	}
	return &Publisher{peer: p, client: client}, nil
}

// Send sends messages. With a speed of 0 they go as fast as the server reads them;
// otherwise each is sent at its timestamp, at speed times real time, counted from the
// first message sent with a speed. If ctx ends inside a message, nothing more can be
// sent. After the end of the connection Send returns Err.
func (p *Publisher) Send(ctx context.Context, messages iter.Seq[Message], speed float64) error {
	stop := context.AfterFunc(ctx, func() { p.nc.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	for m := range messages {
		if err := p.pace(ctx, m.Timestamp, speed); err != nil {
			return err
		}
		if err := p.WriteMessage(m); err != nil {
			if isClosed(p.done) {
				err = p.Err()
			}
			return contextErr(ctx, err)
		}
	}
	return nil
}

// pace waits until a message is due.
func (p *Publisher) pace(ctx context.Context, ms uint32, speed float64) error {
	if speed <= 0 {
		return ctx.Err()
	}
	if !p.paced {
		p.paced, p.epoch, p.first = true, time.Now(), ms
	}
	due := p.epoch.Add(time.Duration(float64(int32(ms-p.first)) / speed * float64(time.Millisecond)))
	t := time.NewTimer(time.Until(due))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-p.done:
		return p.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WriteMessage sends one message.
func (p *Publisher) WriteMessage(m Message) error { return p.send(p.frame(m)) }

// WritePart sends the first n bytes of a message as on the wire, including chunk
// headers; n must be less than its length. The server takes anything sent afterwards
// for the rest.
func (p *Publisher) WritePart(m Message, n int) error { return p.send(p.frame(m)[:n]) }

func (p *Publisher) frame(m Message) []byte {
	h := chunk.Header{Type: m.Type, Time: m.Timestamp, StreamID: p.client.StreamID()}
	return chunk.Append(nil, h, m.Payload, p.chunkSize())
}

// Unpublish ends the stream: FCUnpublish and deleteStream.
func (p *Publisher) Unpublish() error { return p.send(p.client.AppendUnpublish(nil)) }

// Vanish makes the publisher silent without closing, as if its cable was pulled: it
// sends nothing more.
func (p *Publisher) Vanish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muted = true
}

// Close closes the connection, without Unpublish.
func (p *Publisher) Close() error { return p.close() }

// Player plays a stream into its Recorder. Its methods are safe for concurrent use. Err
// is a *StatusError if the server has ended the stream with a status.
type Player struct {
	*peer
}

// Play connects and plays into rec, a new Recorder if it is nil. It returns when the
// server has accepted the play, with a *StatusError if the server has refused it, or
// when ctx ends.
func (c Client) Play(ctx context.Context, rec *Recorder) (*Player, error) {
	if rec == nil {
		rec = new(Recorder)
	}
	p, _, err := c.open(ctx, rec, (*rtmp.Client).Play)
	if err != nil {
		return nil, err
	}
	return &Player{p}, nil
}

// Close closes the connection.
func (p *Player) Close() error { return p.close() }

// errStopped is the end of a client with StopBefore.
var errStopped = errors.New("stopped")

// open connects, sends the commands of begin, and then reads in a goroutine, which ends
// with close.
func (c Client) open(ctx context.Context, rec *Recorder, begin func(*rtmp.Client) error) (*peer, *rtmp.Client, error) {
	auth := ""
	for {
		p, client, err := c.connect(ctx, auth, rec, begin)
		var ar *rtmp.AuthRequired
		switch {
		case err == nil:
			return p, client, nil
		case !errors.As(err, &ar):
			return nil, nil, statusError(err)
		}
		auth = ar.Auth
	}
}

// connect is open with the answer to what the connection before was asked.
func (c Client) connect(ctx context.Context, auth string, rec *Recorder, begin func(*rtmp.Client) error) (*peer, *rtmp.Client, error) {
	host, app, name, err := c.target()
	if err != nil {
		return nil, nil, err
	}
	size := c.ChunkSize
	switch {
	case size == 0:
		size = 4096
	case size < maxControl:
		return nil, nil, fmt.Errorf("forwardtest: Client.ChunkSize is %d, expected at least %d", size, maxControl)
	}
	dial := c.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	nc, err := dial(ctx, "tcp", host)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()

	if err := rtmp.ClientHandshake(nc, c.DigestHandshake); err != nil {
		nc.Close()
		return nil, nil, contextErr(ctx, err)
	}
	p := newPeer(nc, rec)
	p.setChunkSize(size)
	stopped := false
	send := func(b []byte) error {
		if stopped {
			return errStopped
		}
		return p.send(b)
	}
	conn := rtmp.NewConn(nc, func(b []byte) error { return send(b) }, 4<<10, size, anyLimits)
	client := rtmp.NewClient(conn, rtmp.Options{
		App: app, TcURL: "rtmp://" + host + "/" + app, Key: name, FlashVer: c.FlashVer,
		User: c.User, Password: c.Password, Auth: auth,
		NoReleaseStream: c.Bare, NoFCPublish: c.Bare,
		Step: func(step string) { stopped = step == c.StopBefore },
	})
	if err := begin(client); err != nil && !errors.Is(err, errStopped) {
		nc.Close()
		return nil, nil, contextErr(ctx, err)
	}
	// What comes by itself is still answered.
	send = p.answer
	go func() {
		p.ended(statusError(client.Watch(func(m chunk.Message) error {
			p.received(m)
			return nil
		})))
	}()
	return p, client, nil
}

// answer sends the answers of the protocol, unless the peer is muted.
func (p *peer) answer(b []byte) error {
	if p.isMuted() {
		return nil
	}
	return p.send(b)
}

func (p *peer) close() error {
	err := p.nc.Close()
	<-p.done
	return err
}

// target splits the URL.
func (c Client) target() (host, app, name string, err error) {
	u := c.URL
	if u == "" {
		u = "rtmp://localhost:1935/live/stream"
	}
	rest, ok := strings.CutPrefix(u, "rtmp://")
	host, path, _ := strings.Cut(rest, "/")
	path, query, hasQuery := strings.Cut(path, "?")
	at := strings.LastIndexByte(path, '/')
	if !ok || host == "" || at < 0 {
		return "", "", "", fmt.Errorf("forwardtest: Client.URL is not rtmp://host/app/name")
	}
	app, name = path[:at], path[at+1:]
	if hasQuery {
		name += "?" + query
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), "1935")
	}
	return host, app, name, nil
}

// statusError turns the internal refusal into the public one.
func statusError(err error) error {
	var st *rtmp.StatusError
	if errors.As(err, &st) {
		return &StatusError{Step: st.Command, Code: st.Code, Description: st.Description}
	}
	if err == nil {
		return io.EOF
	}
	return err
}

// contextErr is ctx's error if ctx has ended, because it is then the cause of err.
func contextErr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
