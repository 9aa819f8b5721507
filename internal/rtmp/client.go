package rtmp

import (
	"fmt"
	"strings"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
)

// FlashVer is the flashVer of our publishers. Some servers ask for credentials, or accept
// a publish, only if it looks like the flashVer of this encoder. nginx-rtmp keeps 31
// bytes of it. PlayerFlashVer is the flashVer of our players, so that such servers do not
// mistake them for publishers.
const (
	FlashVer       = "FMLE/3.0 (compatible; FMSc/1.0)"
	PlayerFlashVer = "LNX 9,0,124,2"
)

// Options says how a client connects.
type Options struct {
	App      string
	TcURL    string
	FlashVer string // if empty, FlashVer or PlayerFlashVer
	Key      string // the name to publish or play, sent unchanged

	// User and Password are for a server that asks for them. Publish and Play then
	// return an AuthRequired.
	User, Password string
	// Auth is AuthRequired.Auth of the previous connection, or empty.
	Auth string

	NoReleaseStream bool
	NoFCPublish     bool
	// Properties are added to the connect command's object.
	Properties amf.Object

	// Reconnect is called by Watch with the tcUrl of each ReconnectRequest. The tcUrl is
	// empty if the server names none, which means the current one.
	Reconnect func(tcURL string)
	// Step is called with the name of each step before it begins: connect,
	// createStream, publish, play.
	Step func(string)
	// Said is called with the code and description of the answers that accept connect
	// and publish or play. Both are masked and shortened as in a StatusError.
	Said func(code, description string)
}

// Transaction ids. connect's is 1 by specification.
const (
	txnConnect       = 1
	txnReleaseStream = 2
	txnFCPublish     = 3
	txnCreateStream  = 4
	txnPublish       = 5
)

// Client is the client's side of a connection.
type Client struct {
	*Conn
	opt      Options
	streamID uint32
	codecs   codecs // those that the server lists
}

// NewClient returns the client's side of c, after its handshake.
func NewClient(c *Conn, opt Options) *Client { return &Client{Conn: c, opt: opt} }

// StreamID returns the message stream id that the server has assigned.
func (c *Client) StreamID() uint32 { return c.streamID }

// Publish sends connect, createStream and publish, and returns when the server has
// accepted. If the server refuses, the error is a *StatusError, or an *AuthRequired or a
// *Redirect that wraps one.
func (c *Client) Publish() error {
	if err := c.connect(FlashVer); err != nil {
		return err
	}
	b := chunk.AppendControl(nil, chunk.TypeWindowAckSize, windowAckSize)
	if !c.opt.NoReleaseStream {
		b = c.appendCommand(b, 0, "releaseStream", txnReleaseStream, nil, c.opt.Key)
	}
	if !c.opt.NoFCPublish {
		b = c.appendCommand(b, 0, "FCPublish", txnFCPublish, nil, c.opt.Key)
	}
	if err := c.createStream(b); err != nil {
		return err
	}
	c.step("publish")
	if err := c.send(c.appendCommand(nil, c.streamID, "publish", txnPublish, nil, c.opt.Key, "live")); err != nil {
		return err
	}
	return c.status("publish", "NetStream.Publish.Start")
}

// Play sends connect, createStream and play, and returns when the server has accepted.
// Its errors are those of Publish.
func (c *Client) Play() error {
	if err := c.connect(PlayerFlashVer); err != nil {
		return err
	}
	if err := c.createStream(chunk.AppendControl(nil, chunk.TypeWindowAckSize, windowAckSize)); err != nil {
		return err
	}
	c.step("play")
	b := c.appendCommand(nil, c.streamID, "play", txnPublish, nil, c.opt.Key, -2000)
	if err := c.send(b); err != nil {
		return err
	}
	return c.status("play", "NetStream.Play.Start")
}

// AppendUnpublish appends the commands that end the published stream.
func (c *Client) AppendUnpublish(b []byte) []byte {
	if !c.opt.NoFCPublish {
		b = c.appendCommand(b, 0, "FCUnpublish", txnPublish+1, nil, c.opt.Key)
	}
	return c.appendCommand(b, 0, "deleteStream", txnPublish+2, nil, int(c.streamID))
}

// Watch reads until the server ends the accepted stream, and returns why: a
// *StatusError, or the error of reading. message, if not nil, receives all other
// messages.
func (c *Client) Watch(message func(chunk.Message) error) error {
	for {
		m, cmd, ok, err := c.read()
		if err != nil {
			return err
		}
		if ok {
			if err := c.watched(&cmd); err != nil {
				return err
			}
		}
		if message != nil {
			if err := message(m); err != nil {
				return err
			}
		}
	}
}

func (c *Client) watched(cmd *Command) error {
	switch cmd.Name {
	case "onStatus":
		level, code, _ := cmd.info()
		if code == codeReconnect {
			if c.opt.Reconnect != nil {
				c.opt.Reconnect(cmd.reconnect())
			}
			return nil
		}
		if refusal(level, code) {
			return c.refused("stream", cmd)
		}
	case "close":
		return &StatusError{Command: "stream", Code: "close"}
	}
	return nil
}

func (c *Client) step(name string) {
	if c.opt.Step != nil {
		c.opt.Step(name)
	}
}

func (c *Client) connect(flashVer string) error {
	c.step("connect")
	if c.opt.FlashVer != "" {
		flashVer = c.opt.FlashVer
	}
	tcURL := withAuth(c.opt.TcURL, c.opt.Auth)
	props := amf.Object{
		{Key: "app", Value: withAuth(c.opt.App, c.opt.Auth)},
		{Key: "type", Value: "nonprivate"},
		{Key: "flashVer", Value: flashVer},
		{Key: "swfUrl", Value: tcURL},
		{Key: "tcUrl", Value: tcURL},
	}
	props = append(props, c.opt.Properties...)
	b := chunk.AppendControl(nil, chunk.TypeSetChunkSize, uint32(c.size))
	if err := c.send(c.appendCommand(b, 0, "connect", txnConnect, props)); err != nil {
		return err
	}
	return c.await("connect", func(cmd *Command) (bool, error) {
		_, code, _ := cmd.info()
		switch {
		case cmd.Name == "_result" && (cmd.Txn == txnConnect || code == "NetConnection.Connect.Success"):
			c.codecs.learn(cmd)
			c.said(cmd)
			return true, nil
		case cmd.Name == "_error" && (cmd.Txn == txnConnect || cmd.Txn == 0):
			return true, c.refused("connect", cmd)
		}
		return false, nil
	})
}

func (c *Client) createStream(b []byte) error {
	c.step("createStream")
	if err := c.send(c.appendCommand(b, 0, "createStream", txnCreateStream, nil)); err != nil {
		return err
	}
	return c.await("createStream", func(cmd *Command) (bool, error) {
		id, isNumber := cmd.Number(1)
		switch {
		case cmd.Name == "_result" && (cmd.Txn == txnCreateStream || isNumber && cmd.Txn != txnReleaseStream && cmd.Txn != txnFCPublish):
			if !isNumber || !(id >= 0 && id < 1<<32) { // nor NaN
				return true, fmt.Errorf("%w: createStream's result is no stream id", chunk.ErrProtocol)
			}
			c.streamID = uint32(id)
			return true, nil
		case cmd.Name == "_error" && cmd.Txn == txnCreateStream:
			return true, c.refused("createStream", cmd)
		}
		return false, nil
	})
}

// status waits for an onStatus with the code want.
func (c *Client) status(step, want string) error {
	return c.await(step, func(cmd *Command) (bool, error) {
		if cmd.Name == "_error" && cmd.Txn == txnPublish {
			return true, c.refused(step, cmd)
		}
		_, code, _ := cmd.info()
		accepted := cmd.Name == "onStatus" && code == want
		if accepted {
			c.said(cmd)
		}
		return accepted, nil
	})
}

// said calls Options.Said for an answer that accepts.
func (c *Client) said(cmd *Command) {
	if c.opt.Said == nil {
		return
	}
	_, code, text := cmd.info()
	code, text = c.words(code, text)
	c.opt.Said(code, text)
}

// read reads a message. If it is a command, read decodes it and ok is true.
func (c *Client) read() (m chunk.Message, cmd Command, ok bool, err error) {
	if m, err = c.Next(); err == nil {
		cmd, ok, err = parseCommand(m)
	}
	return m, cmd, ok, err
}

// await reads commands until answer returns true or an error. An onStatus that refuses,
// or close, ends any step. Other messages are ignored: the answers to releaseStream,
// FCPublish and _checkbw may be errors, or missing.
func (c *Client) await(step string, answer func(*Command) (bool, error)) error {
	for {
		_, cmd, ok, err := c.read()
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if done, err := answer(&cmd); done || err != nil {
			return err
		}
		level, code, _ := cmd.info()
		if cmd.Name == "onStatus" && refusal(level, code) || cmd.Name == "close" {
			return c.refused(step, &cmd)
		}
	}
}

// refused returns the typed error of a refusal. Servers often repeat the request, so its
// secret parts are masked in the error.
func (c *Client) refused(step string, cmd *Command) error {
	level, code, text := cmd.info()
	if code == "" {
		code = cmd.Name
	}
	st := &StatusError{Command: step, Level: clip(c.mask(level), 16)}
	st.Code, st.Description = c.words(code, text)
	if step == "connect" {
		if auth, ok := c.opt.authorize(text, newNonce()); ok {
			return &AuthRequired{Refused: st, Auth: auth}
		}
		if to := cmd.redirect(); to != "" {
			return &Redirect{Refused: st, url: to}
		}
	}
	return st
}

// words masks and shortens the code and description of an answer. A code of the usual
// form is not masked, even if the key is part of it: callers branch on it.
func (c *Client) words(code, text string) (string, string) {
	if !usualCode(code) {
		code = c.mask(code)
	}
	return clip(code, 64), clip(c.mask(text), 256)
}

// mask replaces the key, its name, all queries and their values, user and password by
// ***. It leaves texts shorter than 4 bytes, so that s stays readable.
func (c *Client) mask(s string) string {
	name, query := splitQuery(c.opt.Key)
	_, appQuery := splitQuery(c.opt.App)
	_, tcQuery := splitQuery(c.opt.TcURL)
	_, auth, _ := strings.Cut(c.opt.Auth, "&") // after authmod, which is not secret
	for _, secret := range []string{c.opt.Key, query, appQuery, tcQuery, auth, name, c.opt.Password, c.opt.User, escapeUser(c.opt.User)} {
		if len(secret) >= 4 {
			s = strings.ReplaceAll(s, secret, "***")
		}
	}
	return MaskValues(s, query, appQuery, tcQuery, auth)
}

// MaskValues replaces the values of queries in s by ***. It leaves values shorter than 4
// bytes, so that s stays readable.
func MaskValues(s string, queries ...string) string {
	for _, q := range queries {
		for pair := range strings.SplitSeq(q, "&") {
			if _, v, _ := strings.Cut(pair, "="); len(v) >= 4 {
				s = strings.ReplaceAll(s, v, "***")
			}
		}
	}
	return s
}

// usualCode reports whether code has the form NetStream.Publish.BadName.
func usualCode(code string) bool {
	return (strings.HasPrefix(code, "NetStream.") || strings.HasPrefix(code, "NetConnection.")) &&
		!strings.ContainsFunc(code, func(r rune) bool {
			return r != '.' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		})
}
