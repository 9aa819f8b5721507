package forward

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/sys"
)

// Config holds a Server's settings. The zero value works: a zero field takes the
// default given with it. A negative duration or limit means none, unless the field
// says otherwise.
type Config struct {
	// Addr is the TCP address ListenAndServe listens on. Default ":1935".
	Addr string

	// Resolver decides where a stream goes. Default: nowhere; the Server only
	// serves players.
	Resolver DestinationResolver

	// RefreshInterval is how often the Resolver is asked again while a
	// stream is live; see Source.Refresh. The interval, and the TTL of an
	// answer, are at least 1 s. Up to a tenth is added at random, so that streams
	// that began together do not ask together. Default and negative: the Resolver
	// is asked again only when the TTL of its answer has passed (TTLResolver),
	// or when the host calls Refresh.
	RefreshInterval time.Duration

	// Hooks decide what publishers and players may do, and report what they do.
	Hooks Hooks

	// PublishAuth, if not nil, requires user and password of publishers over
	// the network. It returns a user's password, or false for an unknown
	// user, and is called concurrently. Publishers are challenged with
	// PublishAuthMethod, which OBS, FFmpeg and hardware encoders answer when
	// they are configured with user and password. The password itself is
	// never sent, and each response is valid once. An eavesdropper can guess
	// passwords offline, so TLS still helps.
	//
	// Request.User is the authenticated user; OnPublish decides which
	// streams that user may publish. Publishers are recognised by flashVer,
	// which begins with "FMLE/" or contains "FMSc/". Other clients are not
	// challenged and can only play. Set flash-version accordingly for
	// GStreamer's rtmp2sink.
	PublishAuth func(user string) (password Secret, ok bool)

	// PublishAuthMethod is how publishers are challenged. Default AuthAdobe.
	PublishAuthMethod AuthMethod

	// Logger gets the Server's log: Info when a stream begins and ends, Warn
	// when a destination is lost, Debug for protocol detail; nothing is logged
	// per message. Lines that clients can cause at will (failed connections,
	// panics of hooks, unusable destinations) are limited by cause: 4 lines, then
	// one line every 30 s. That line is the latest one, with its time (at) and the
	// number of lines left out (not_logged). Default slog.Default().
	Logger *slog.Logger

	// LogNames shows the names of streams (Source.Name) in the log, errors, events, and
	// the texts of a Source or Request, from which metrics and the control handler take
	// theirs. By default names are masked, because with many encoders the name is the
	// key that allows publishing. Queries, and keys of destinations, are never shown.
	LogNames bool

	// Dial connects to destinations whose DialContext is nil. The default is
	// described at Destination.DialContext. Names are resolved at each attempt.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// AllowNetworks adds to the addresses that destinations may have. Without it,
	// these depend on the origin of the URL:
	//
	//   - the host's code or configuration (Static and the like,
	//     Source.Forward): any address;
	//   - the operator over the network (the backend of a resolve.HTTP, the
	//     control handler): any address except link-local ones and those of
	//     metadata services, such as 169.254.169.254 and fd00:ec2::254;
	//   - anyone else (a publisher through resolve.FromParam, or through a param,
	//     tcUrl or pageUrl that a backend repeats; another server through
	//     RedirectAnywhere; Destination.Untrusted): public addresses.
	//
	// A prefix in AllowNetworks allows the addresses in it; see
	// PrivateNetworks. A link-local or metadata address needs a prefix within
	// its own range: 169.254.0.0/16 or longer, or fd00:ec2::254/128, but not
	// 0.0.0.0/0 or fc00::/7. For the second and third kind, no prefix allows the
	// Server's own listeners. If the host itself names one, the stream is refused
	// at connect (ErrLoop). Default none.
	//
	// The addresses of a name are checked at each attempt, including an IPv4
	// address embedded in an IPv6 one (NAT64, 6to4, Teredo, ISATAP and others).
	// A refusal is an *AddressError. Dial and Destination.DialContext hide the
	// addresses that they try. With them, an address in the URL is checked before
	// the call, and the connection's RemoteAddr after it if that is a
	// *net.TCPAddr.
	AllowNetworks []netip.Prefix

	// AllowPorts adds ports below 1024. Without it, destinations of the third kind
	// above and redirects may have port 443 and those from 1024 upwards.
	// Destinations of the host and the operator may have any port. Default none.
	AllowPorts []uint16

	// TLSConfig is for rtmps destinations without one of their own.
	TLSConfig *tls.Config

	// Vhosts overrides settings for single vhosts. The vhost is part of a
	// stream's identity: the same path in two vhosts is two streams. Vhost
	// names are not case-sensitive and contain no slash.
	//
	// A vhost that a client names (?vhost=) is separate, listed here or not. An
	// unlisted one has the settings of DefaultVhost; its clients are refused if
	// Vhosts is not empty and DefaultVhost is not listed. The host of a tcUrl
	// names a vhost only if that vhost is listed.
	Vhosts map[string]Vhost

	// NoGOPCache makes players and destinations begin with the next
	// keyframe instead of the last one.
	NoGOPCache bool

	// RawTimestamps passes a publisher's timestamps on unchanged. By default,
	// when a publisher's clock is set back by more than 2 s, timestamps
	// continue from where they were, with one offset for audio, video and data:
	// recorders and HLS packagers cannot handle times that go back. A single
	// message that is more than 2 s off gets the time of the message before
	// it. A jump forward passes once the other track, or several messages in a
	// row, confirm it. Small steps back always pass.
	RawTimestamps bool

	// MaxLatency is how far in time a player or destination may lag, counted
	// from where it began. A receiver that lags by four fifths of it skips to the
	// newest keyframe, if one is ahead. On Linux bytes in flight count too, with a
	// limit of nine tenths. A receiver that lags by all of it skips in any case,
	// and waits up to 5 s for a keyframe. MaxLatency does not limit the last GOP,
	// with which new receivers begin: see MaxBytes. Default 10 s.
	MaxLatency time.Duration

	// MaxBytes is how many bytes of a stream are kept: the last GOP, however
	// long, for new receivers, and more for receivers that lag. If no keyframe
	// is kept and none comes within 5 s, a new receiver begins with the headers
	// and the next message; ForwarderStats.Warning reports this for a
	// destination, the log for a player. Each message counts 200 bytes more
	// than its size. A receiver that lags by half of MaxBytes also skips to the
	// newest keyframe. Default 16 MiB.
	MaxBytes int

	// MemoryBudget limits the memory, in bytes, of all streams together: their
	// messages with all overhead, and messages that peers have begun to send
	// (counted in steps of 16 KiB for an accepted publisher, of 1 KiB for
	// others). Close to the limit the Server sheds load in steps. At 80 % it
	// refuses new publishers and cuts off receivers that still hold an ended
	// stream. At 90 % each stream keeps only its share. At 95 % it cuts off
	// the receiver that holds most by lagging.
	//
	// Connections without an accepted publish, and destinations, share an
	// eighth of the budget for unfinished messages. When they need more, or
	// when an accepted publisher needs memory and the budget is used up, the
	// one that holds most is closed. If nothing is left to close, the
	// publisher whose message finds no room is disconnected.
	//
	// By default all Servers of the process share one budget: a quarter of
	// what the process may use (GOMEMLIMIT, or the memory limit of its cgroup,
	// when the first Server is made), or 512 MiB without such a limit. A
	// Server with its own MemoryBudget is counted separately. A Reload that
	// switches between the two applies to streams and connections that begin
	// later.
	MemoryBudget int

	// MergeWindow is the longest time that messages are held back to send more of
	// them in one write (merged write; SRS's mw_latency). It adds that latency
	// and saves most of the CPU time. Default 50 ms; negative sends every message
	// immediately. On Linux, if at least 8 publishers with a negative MergeWindow
	// together send more than 2000 messages a second, they are read every 2.5 ms.
	MergeWindow time.Duration

	// ChunkSize is the size of the chunks that are sent, 128 to 65536 bytes.
	// Default 60000.
	ChunkSize int

	// HandshakeTimeout limits the handshake. SetupTimeout limits the time from
	// accepting a connection to its publish or play, not counting hooks.
	// Defaults 5 s and 10 s.
	HandshakeTimeout time.Duration
	SetupTimeout     time.Duration

	// FirstMediaTimeout ends a publisher that sends no media after its publish,
	// ReadTimeout one that stops sending. ReadTimeout may fire a tenth earlier,
	// at most 1 s. Each publish of a connection is measured by its own media;
	// with several, both may fire 1 s later. Defaults 15 s and 10 s.
	FirstMediaTimeout time.Duration
	ReadTimeout       time.Duration

	// PublishGrace is how long a stream outlives a lost publisher: one whose
	// connection ended without an unpublish. Players and destinations stay
	// connected. A publisher that claims the name meanwhile (after the usual
	// hooks) continues the stream from its first keyframe, with timestamps
	// after the earlier ones (but see RawTimestamps). If no keyframe comes in
	// time, the stream ends. Default 0: the stream ends immediately.
	PublishGrace time.Duration

	// GraceUnpublish extends PublishGrace to a publisher that unpublishes, for
	// destinations that must see one broadcast while the encoder stops and
	// starts again.
	GraceUnpublish bool

	// Takeover lets a second publisher take over a stream. Once it is accepted
	// and its first keyframe has come, it continues the stream as described at
	// PublishGrace. The first publisher is told and disconnected; a connection
	// that publishes other streams keeps those. Without Takeover the second is
	// refused (ErrStreamBusy). With Takeover, anyone who may publish a name can
	// displace the current publisher: decide in Hooks.OnPublish.
	Takeover bool

	// Standby lets more publishers of a name wait, ready to continue the stream. It takes
	// precedence over Takeover. Default nil: none may wait.
	Standby *Standby

	// EndPlayers tells players when their stream ends (StreamEOF,
	// NetStream.Play.UnpublishNotify). Most players then leave; those that stay
	// are told when the next publisher comes. By default players are told
	// nothing. They wait for the next publisher of the name and continue with
	// its headers and a keyframe, with timestamps after the earlier ones (but
	// see RawTimestamps). OnPlay is not asked again.
	EndPlayers bool

	// PlayerWait limits how long a player may wait for a publisher, for the first
	// one and for each next one. The player is then told that the stream has ended
	// and disconnected. Default 0 and negative: no limit.
	PlayerWait time.Duration

	// WriteTimeout ends a connection whose peer takes less than 16 KiB in this
	// time although more data is waiting. Default 10 s.
	WriteTimeout time.Duration

	// DrainTimeout is how long a destination may take, after the publisher has
	// left, to receive the rest of the stream and the unpublish. Default 5 s.
	DrainTimeout time.Duration

	// Backoff sets when a lost destination is tried again.
	Backoff Backoff

	// Retry, if not nil, is called before each attempt and may choose another
	// delay: zero takes RetryInfo.Delay, negative gives up. A destination that
	// was given up stays in StateWaiting for as long as the stream lives,
	// unless the host closes or updates the Forwarder, or a refresh replaces
	// the destination. Retry is called without locks, concurrently for
	// different destinations, and delays only its own. If it panics, the delay
	// is RetryInfo.Delay.
	Retry func(RetryInfo) time.Duration

	// Limits bounds what peers may ask for.
	Limits Limits
}

// AuthMethod is a way to challenge publishers for user and password. No
// specification defines the methods; OBS, FFmpeg and librtmp answer both.
type AuthMethod string

// The methods. Both use MD5 and protect the password only as far as it is hard to
// guess.
const (
	AuthAdobe     AuthMethod = rtmp.AuthAdobe // as Flash Media Server asks
	AuthLimelight AuthMethod = rtmp.AuthLLNW  // as Limelight asks
)

// Vhost holds the settings of one vhost. A zero field takes the value of the Config: a
// bool that is true in the Config is true in every Vhost.
type Vhost struct {
	// Disabled refuses the clients of the vhost.
	Disabled bool

	// Resolver, RefreshInterval, ChunkSize, NoGOPCache, MaxLatency, MergeWindow,
	// FirstMediaTimeout, ReadTimeout, PublishGrace, GraceUnpublish, Takeover,
	// Standby, EndPlayers and PlayerWait replace the fields of Config with these names.
	Resolver          DestinationResolver
	RefreshInterval   time.Duration
	ChunkSize         int
	NoGOPCache        bool
	MaxLatency        time.Duration
	MergeWindow       time.Duration
	FirstMediaTimeout time.Duration
	ReadTimeout       time.Duration
	PublishGrace      time.Duration
	GraceUnpublish    bool
	Takeover          bool
	Standby           *Standby
	EndPlayers        bool
	PlayerWait        time.Duration
}

// Backoff is the delay between two attempts to reach a destination. It begins at
// Min and doubles with each attempt up to Max. Below Max it is random between
// half of it and all of it, so that destinations that were lost together do not
// return together. With the defaults there are at most 7 attempts in the first
// minute, and 2 in each minute after that.
type Backoff struct {
	Min time.Duration // default 1 s; negative: no delay
	Max time.Duration // default 30 s
	// Healthy is how long a session must last before the delay returns to Min.
	// A shorter session doubles the delay twice. Default 30 s.
	Healthy time.Duration
	// RefusedMin and RefusedMax replace Min and Max after a refusal that will
	// not change by itself, such as a wrong stream key. The delay is at least
	// RefusedMin. Defaults 10 s and 5 min.
	RefusedMin time.Duration
	RefusedMax time.Duration
}

const (
	// setupBuffer is the size of the read buffer before a publish or play is
	// accepted, playBuffer that of a player, which sends very little, and
	// publishBuffer that of a publisher.
	setupBuffer   = 1 << 10
	playBuffer    = 128
	publishBuffer = 32 << 10
	// maxChunkSize is accepted by all servers known to us.
	maxChunkSize = 65536
	// maxMergeWindow keeps a wrong unit from making a stream look dead.
	maxMergeWindow = 10 * time.Second
)

func (c Config) withDefaults() Config {
	def(&c.Addr, ":1935")
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Resolver == nil {
		c.Resolver = static(nil)
	}
	def(&c.PublishAuthMethod, AuthAdobe)
	def(&c.MaxLatency, 10*time.Second)
	def(&c.MaxBytes, 16<<20)
	def(&c.MergeWindow, 50*time.Millisecond)
	def(&c.ChunkSize, 60000)
	def(&c.HandshakeTimeout, 5*time.Second)
	def(&c.SetupTimeout, 10*time.Second)
	def(&c.FirstMediaTimeout, 15*time.Second)
	def(&c.ReadTimeout, 10*time.Second)
	def(&c.WriteTimeout, 10*time.Second)
	def(&c.DrainTimeout, 5*time.Second)
	def(&c.Backoff.Min, time.Second)
	def(&c.Backoff.Max, 30*time.Second)
	def(&c.Backoff.Healthy, 30*time.Second)
	def(&c.Backoff.RefusedMin, 10*time.Second)
	def(&c.Backoff.RefusedMax, 5*time.Minute)
	l := &c.Limits
	def(&l.Connections, sys.MaxFiles()/5*4)
	def(&l.Connections, 10000)
	def(&l.ConnectionsPerAddress, -1)
	def(&l.RefusalsPerAddress, -1)
	def(&l.PendingHandshakes, 1024)
	def(&l.Streams, 4096)
	def(&l.Destinations, 1024)
	def(&l.TotalDestinations, 16384)
	def(&l.MediaSize, 8<<20)
	def(&l.DataSize, 256<<10)
	def(&l.PartialSize, 16<<20)
	def(&l.ChunkStreams, 32)
	return c
}

// def sets a zero field to its default.
func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate returns an error that says what is wrong with c, or nil. NewServer does not
// return it; the Server's methods that serve do.
func (c Config) Validate() error {
	c = c.withDefaults()
	check := func(where string, chunkSize int, window time.Duration) error {
		if chunkSize < chunk.DefaultSize || chunkSize > maxChunkSize {
			return fmt.Errorf("config%s: ChunkSize is %d, expected %d to %d", where, chunkSize, chunk.DefaultSize, maxChunkSize)
		}
		if window > maxMergeWindow {
			return fmt.Errorf("config%s: MergeWindow is %v, expected at most %v", where, window, maxMergeWindow)
		}
		return nil
	}
	if err := check("", c.ChunkSize, c.MergeWindow); err != nil {
		return err
	}
	if m := c.PublishAuthMethod; m != AuthAdobe && m != AuthLimelight {
		return fmt.Errorf("config: PublishAuthMethod is %q, expected %q or %q", m, AuthAdobe, AuthLimelight)
	}
	if a, b, found := rtmp.SameVhosts(c.Vhosts); found {
		return fmt.Errorf("config: vhosts %q and %q are the same: case does not count", a, b)
	}
	for name := range c.Vhosts {
		if err := rtmp.CheckVhost(name); err != nil {
			return fmt.Errorf("config: vhost %q: %w", name, err)
		}
		v := c.vhost(name)
		if err := check(": vhost "+name, v.ChunkSize, v.MergeWindow); err != nil {
			return err
		}
	}
	return nil
}

// mediaLimits are the limits of an accepted publisher or player.
func (c *Config) mediaLimits() chunk.Limits {
	return chunk.Limits{
		Media:    unlimited(c.Limits.MediaSize),
		Command:  unlimited(c.Limits.DataSize),
		Partial:  unlimited(c.Limits.PartialSize),
		Streams:  unlimited(c.Limits.ChunkStreams),
		TinySize: 64 << 10,
	}
}

// logLimits are the limits of a stream's log.
func (c *Config) logLimits(v Vhost) gop.Limits {
	return gop.Limits{
		Bytes: unlimited(c.MaxBytes),
		Age:   age(v.MaxLatency),
		Live:  v.NoGOPCache,
	}
}

func (c *Config) allowsPort(p uint16) bool {
	return p == 443 || p >= 1024 || slices.Contains(c.AllowPorts, p)
}
