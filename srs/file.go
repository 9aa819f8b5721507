package srs

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/conf"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// File is the content of a configuration file.
type File struct {
	// Config is for forward.NewServer. Addr is the first address of Listen; if the file
	// has no listen, it is an address with which ListenAndServe fails, not the default.
	// Hooks are those of HTTPHooks.
	Config forward.Config
	// HTTPHooks are the enabled http_hooks of the vhosts, nil if there are none.
	HTTPHooks *Hooks
	// Listen has the addresses to listen on, without duplicates.
	Listen []string
	// Users are those of publish_auth with their passwords, which Config.PublishAuth
	// looks up; nil if publish_auth is not enabled.
	Users map[string]forward.Secret
	// RTMPS is the rtmps block, nil if it is missing or not enabled.
	RTMPS *RTMPSFile
	// HTTP is the http block, nil if it is missing.
	HTTP *HTTPFile
	// Webhooks is the webhooks block, nil if it is missing.
	Webhooks *WebhooksFile
	// PID is the file to write the process id to; empty for none.
	PID string
	// DestinationTable is the path of the file for table.Open; empty for none.
	DestinationTable string
	// Ignored names the directives of SRS that this library does not support, with
	// their position: "srs.conf:3:1: daemon".
	Ignored []string
	// Warnings are likely mistakes, with their position: "srs.conf:5:9: there is no
	// \"enabled on\": the destinations are not used". They contain no value that may be
	// a secret.
	Warnings []string

	backends map[string]backendFile // of the vhosts that have one
}

// backendFile is the backend of a vhost, as configured.
type backendFile struct {
	url, onFailure string
	timeout        time.Duration
}

// noAddr is the Config.Addr of a file without listen.
const noAddr = "no listen in the file"

// Format writes the numbers of addresses and vhosts, for every verb: the backends' URLs
// may contain tokens.
func (f File) Format(w fmt.State, _ rune) {
	fmt.Fprintf(w, "File with %d addresses and %d vhosts", len(f.Listen), len(f.Config.Vhosts))
}

// MarshalText gives the same as Format.
func (f File) MarshalText() ([]byte, error) { return fmt.Append(nil, f), nil }

// RTMPSFile is the rtmps block of a configuration file.
type RTMPSFile struct {
	// Listen has the addresses to listen on.
	Listen []string
	// CertFile and KeyFile are the paths of the certificate and its key, in PEM.
	CertFile, KeyFile string

	certFrom, keyFrom *string // where the paths come from, if not from the file
}

// Certificate reads CertFile and KeyFile. If a path comes from a variable of the
// environment, errors do not show it.
func (r *RTMPSFile) Certificate() (tls.Certificate, error) {
	cert, err := readPath(r.CertFile, r.certFrom)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readPath(r.KeyFile, r.keyFrom)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// readPath reads a file. If from is not nil, errors show it in place of the path.
func readPath(path string, from *string) ([]byte, error) {
	b, err := os.ReadFile(path)
	var at *fs.PathError
	if from != nil && errors.As(err, &at) {
		return nil, fmt.Errorf("%s: %s: %w", *from, at.Op, at.Err)
	}
	return b, err
}

// LoadConfig reads a file in SRS's configuration format. It supports the directives
// about receiving, forwarding and playing RTMP:
//
//	listen, max_connections, chunk_size, pid, destination_table;
//	rtmp { listen; chunk_size; }
//	rtmps { enabled; listen; cert; key; }
//	publish_auth { enabled; method; user; }
//	log_names;
//	http { listen; token; host; cert; key; }
//	webhooks { url; secret; events; names; timeout_ms; }
//	vhost NAME { enabled; chunk_size;
//	  forward { enabled; destination; backend; timeout_ms; on_failure; refresh_ms; }
//	  play { gop_cache; queue_length; mw_latency; end_players; player_wait; }
//	  publish { firstpkt_timeout; normal_timeout; grace; grace_unpublish; takeover;
//	    standby; standby_stall; standby_return; standby_rank; standby_same_format; }
//	  http_hooks { enabled; on_connect; on_close; on_publish; on_unpublish; on_play; on_stop; timeout_ms; } }
//
// Other directives of SRS are listed in File.Ignored. Unknown directives and wrong
// values are errors that name file, line and column, and the expected value. As in SRS,
// a block with enabled has no effect unless enabled is on, and the destinations of
// forward are not used if it has a backend. Spellings of SRS 1 and 2, such as forward
// with destinations and no block, are accepted with a warning.
//
// include PATH…; stands for the directives of other files, at the top level and in
// blocks. A path is relative to the directory of the file that includes it. Only
// regular files are read, nested at most 8 deep. ${NAME} in a value stands for a
// variable of the environment, which must be set; $${ stands for ${. For a value that
// may be a secret, such as those of stream_key, user, destination, backend and
// on_publish, NAME_file gives the path of a file with the value: stream_key_file PATH,
// user_file NAME PATH.
//
// As in SRS, variables of the environment replace directives: SRS_LISTEN (and
// SRS_RTMP_LISTEN), SRS_MAX_CONNECTIONS, SRS_PID, SRS_VHOST_CHUNK_SIZE,
// SRS_VHOST_PLAY_GOP_CACHE and so on; those of a vhost apply to every vhost.
//
// The values of destination are those of forward.Static. A block may follow a single
// one, in place of the ";", with the options of a forward.Destination:
//
//	destination rtmps://a.rtmps.youtube.com/live2 {
//	  stream_key KEY; user NAME PASSWORD; profile youtube; tc_url URL;
//	  flash_ver TEXT; chunk_size BYTES; server_name NAME; fingerprint HEX;
//	  redirect same_host; merge_window_ms 50; dial_timeout_ms 5000;
//	  setup_timeout_ms 10000; publish_timeout_ms 35000;
//	  no_release_stream on; no_fc_publish on;
//	  plain_metadata on; no_metadata on; digest_handshake on; timestamps zero; }
//
// Names and values are those of the control handler's JSON, with three differences:
// user is followed by the password, booleans are on and off, and a merge_window_ms of 0
// sends every message immediately, as an mw_latency of 0 does. All values except the URL
// are used unchanged, without placeholders. With a stream_key the whole path of the URL
// is the app. If the URL has no path, the app is that of the stream, with its vhost, or
// that of the platform.
//
// timeout_ms of forward is resolve.HTTP.Timeout, and refresh_ms is
// forward.Vhost.RefreshInterval. on_failure is resolve.HTTP.OnFailure: closed, open or
// last_good, or for resolve.Fallback the URL of another backend, or a destination.
// timeout_ms of http_hooks is HookURLs.Timeout.
//
// publish_auth has the users that may publish, each as user NAME PASSWORD, and method,
// adobe or llnw, for forward.Config.PublishAuthMethod. If it is enabled without users,
// nobody may publish. grace and player_wait, in milliseconds, are
// forward.Config.PublishGrace and PlayerWait; grace_unpublish, takeover and end_players
// are the fields of these names. standby is the Publishers of forward.Standby, standby_stall
// and standby_return, in milliseconds, its Stall and Return, standby_same_format its
// SameFormat; standby_rank PARAM takes the Rank from this param of the publisher's query, 0
// without it. http has the addresses, the token and the names of a
// control.Server; token_file PATH names a file with the token. The default host of its
// addresses is 127.0.0.1. With cert and key, the paths of PEM files, it uses TLS. webhooks
// has the Options of package webhooks. log_names is forward.Config.LogNames.
// destination_table PATH is the file of a table.Table. SRS has none of these, nor
// timeout_ms, on_failure, refresh_ms
// and the block of a destination.
func LoadConfig(path string) (*File, error) {
	src, err := conf.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParseConfig(path, src)
}

// ParseConfig is LoadConfig for a file that has been read. Errors show name, and
// relative paths begin in its directory.
func ParseConfig(name string, src []byte) (*File, error) {
	return parseConfig(name, src, conf.Environment{LookupEnv: os.LookupEnv})
}

func parseConfig(name string, src []byte, env conf.Environment) (*File, error) {
	tree, notes, err := conf.Load(name, src, env)
	if err != nil {
		return nil, err
	}
	ignored, err := conf.Check(tree)
	if err != nil {
		return nil, err
	}
	f := &File{Config: forward.Config{Vhosts: make(map[string]forward.Vhost)}, backends: make(map[string]backendFile)}
	for _, n := range notes {
		f.warn(n.Pos, n.Text)
	}
	for _, i := range ignored {
		f.ignore(i.Pos, i.Name+insteadOf[i.Name])
	}
	for _, d := range tree.Root {
		switch d.Name {
		case "listen":
			f.listen(d)
		case "max_connections":
			f.Config.Limits.Connections = number(d)
		case "chunk_size":
			f.Config.ChunkSize = cmp.Or(f.Config.ChunkSize, number(d))
		case "pid":
			f.PID = d.Args[0]
		case "destination_table":
			f.DestinationTable = d.Args[0]
		case "rtmp":
			for _, d := range d.Block {
				switch d.Name {
				case "listen":
					f.listen(d)
				case "chunk_size":
					f.Config.ChunkSize = number(d)
				}
			}
		case "rtmps":
			f.RTMPS = rtmpsFile(d)
		case "publish_auth":
			f.publishAuth(d)
		case "http":
			if err := f.http(d); err != nil {
				return nil, err
			}
		case "log_names":
			f.Config.LogNames = on(d)
		case "webhooks":
			if err := f.webhooks(d); err != nil {
				return nil, err
			}
		case "vhost":
			if err := rtmp.CheckVhost(d.Args[0]); err != nil {
				name := fmt.Sprintf("vhost %q", d.Args[0])
				if from := d.Origin(0); from != "" {
					name = "the vhost's name, " + from
				}
				return nil, fmt.Errorf("%s: %s: %w", d.ArgPos(0), name, err)
			}
			v, err := f.vhost(d)
			if err != nil {
				return nil, err
			}
			f.Config.Vhosts[d.Args[0]] = v
			f.httpHooks(d)
		}
	}
	f.Config.Addr = noAddr
	if len(f.Listen) > 0 {
		f.Config.Addr = f.Listen[0]
	}
	if f.HTTPHooks != nil {
		f.hookDefaults()
		if err := f.HTTPHooks.Validate(); err != nil {
			return nil, fmt.Errorf("%s: http_hooks: %w", name, err)
		}
		f.Config.Hooks = f.HTTPHooks.Hooks()
	}
	f.findWarnings(tree)
	return f, nil
}

// Inherit keeps the parts of an earlier reading of the file that have not changed: the
// Resolver of each vhost whose backend is the same, and Hooks and HTTPHooks if all
// http_hooks are the same. They keep their state, such as the answers for
// resolve.LastGood, and the changes that the host has made to them in old.Config, and
// forward.Server.Reload does not ask an unchanged backend again.
func (f *File) Inherit(old *File) {
	for name, is := range f.backends {
		if before, ok := rtmp.ListedVhost(old.backends, name); ok && old.backends[before] == is {
			v := f.Config.Vhosts[name]
			v.Resolver = old.Config.Vhosts[before].Resolver
			f.Config.Vhosts[name] = v
		}
	}
	if f.sameHooks(old) {
		f.HTTPHooks, f.Config.Hooks = old.HTTPHooks, old.Config.Hooks
	}
}

func (f *File) sameHooks(old *File) bool {
	if f.HTTPHooks == nil || old.HTTPHooks == nil {
		return f.HTTPHooks == old.HTTPHooks
	}
	return reflect.DeepEqual(f.HTTPHooks.Vhosts, old.HTTPHooks.Vhosts)
}

// insteadOf says, for directives of SRS, which directive replaces them here.
var insteadOf = map[string]string{"http_api": " (the control API of this server is in the block http)"}

func (f *File) ignore(pos conf.Position, what string) {
	f.Ignored = append(f.Ignored, fmt.Sprintf("%s: %s", pos, what))
}

func (f *File) warn(pos conf.Position, text string) {
	f.Warnings = append(f.Warnings, fmt.Sprintf("%s: %s", pos, text))
}

// listen adds addresses to listen on, without duplicates.
func (f *File) listen(d *conf.Directive) {
	for _, a := range addresses(d.Args) {
		if !slices.Contains(f.Listen, a) {
			f.Listen = append(f.Listen, a)
		}
	}
}

func (f *File) vhost(vhost *conf.Directive) (v forward.Vhost, err error) {
	for _, d := range vhost.Block {
		switch d.Name {
		case "enabled":
			v.Disabled = !on(d)
		case "chunk_size":
			v.ChunkSize = number(d)
		case "tcp_nodelay":
			if !on(d) {
				f.ignore(d.Pos, "tcp_nodelay off: data that belongs together is sent in one write anyway")
			}
		case "forward":
			if err := f.forward(vhost.Args[0], d, &v); err != nil {
				return v, err
			}
		case "play":
			for _, d := range d.Block {
				switch d.Name {
				case "gop_cache":
					v.NoGOPCache = !on(d)
				case "queue_length":
					v.MaxLatency = orNone(time.Duration(number(d)) * time.Second)
				case "mw_latency":
					if v.MergeWindow = milliseconds(d); v.MergeWindow > maxMergeWindow {
						return v, valueError(d, 0, "mw_latency", fmt.Errorf("mw_latency is %v, expected at most %v", v.MergeWindow, maxMergeWindow))
					}
				case "end_players":
					v.EndPlayers = on(d)
				case "player_wait":
					v.PlayerWait = milliseconds(d)
				}
			}
		case "publish":
			for _, d := range d.Block {
				switch d.Name {
				case "firstpkt_timeout":
					v.FirstMediaTimeout = milliseconds(d)
				case "normal_timeout":
					v.ReadTimeout = milliseconds(d)
				case "grace":
					v.PublishGrace = milliseconds(d)
				case "grace_unpublish":
					v.GraceUnpublish = on(d)
				case "takeover":
					v.Takeover = on(d)
				case "standby", "standby_stall", "standby_return", "standby_rank", "standby_same_format":
					if v.Standby == nil {
						v.Standby = new(forward.Standby)
					}
					standby(v.Standby, d)
				}
			}
		}
	}
	return v, nil
}

// standby applies a directive of a forward.Standby.
func standby(s *forward.Standby, d *conf.Directive) {
	switch d.Name {
	case "standby":
		s.Publishers = number(d)
	case "standby_stall":
		s.Stall = milliseconds(d)
	case "standby_return":
		s.Return = milliseconds(d)
	case "standby_rank":
		s.Rank = rankBy(d.Args[0])
	case "standby_same_format":
		s.SameFormat = on(d)
	}
}

// rankBy returns a Standby.Rank that takes the rank from a param of the query.
func rankBy(param string) func(*forward.Request) int {
	return func(req *forward.Request) int {
		q, _ := url.ParseQuery(strings.TrimPrefix(req.Param, "?"))
		n, _ := strconv.Atoi(q.Get(param))
		return n
	}
}

// maxMergeWindow is the limit of forward.Config.MergeWindow.
const maxMergeWindow = 10 * time.Second

// valueError returns the error of a value. It leaves out err if the value is not in the
// file itself, because err would show the value.
func valueError(d *conf.Directive, i int, what string, err error) error {
	if from := d.Origin(i); from != "" {
		return fmt.Errorf("%s: %s is no %s that can be used", d.ArgPos(i), from, what)
	}
	return fmt.Errorf("%s: %w", d.ArgPos(i), err)
}

// httpHooks adds the http_hooks of a vhost.
func (f *File) httpHooks(vhost *conf.Directive) {
	for _, d := range vhost.Block {
		if d.Name != "http_hooks" {
			continue
		}
		var urls HookURLs
		enabled := false
		events := map[string]*[]string{
			"on_connect": &urls.OnConnect, "on_close": &urls.OnClose,
			"on_publish": &urls.OnPublish, "on_unpublish": &urls.OnUnpublish,
			"on_play": &urls.OnPlay, "on_stop": &urls.OnStop,
		}
		for _, d := range d.Block {
			if d.Name == "enabled" {
				enabled = on(d)
			} else if d.Name == "timeout_ms" {
				urls.Timeout = milliseconds(d)
			} else if event := events[d.Name]; event != nil {
				*event = append(*event, d.Args...)
			}
		}
		if !enabled {
			continue
		}
		if f.HTTPHooks == nil {
			f.HTTPHooks = &Hooks{Vhosts: make(map[string]HookURLs)}
		}
		f.HTTPHooks.Vhosts[vhost.Args[0]] = urls
	}
}

// hookDefaults gives vhosts that are not in the file the hooks of the default vhost, whose
// settings they also have. A vhost in the file without hooks has none.
func (f *File) hookDefaults() {
	h := f.HTTPHooks
	hooked, ok := rtmp.ListedVhost(h.Vhosts, forward.DefaultVhost)
	if !ok {
		return
	}
	h.URLs = h.Vhosts[hooked]
	for name := range f.Config.Vhosts {
		if _, ok := rtmp.ListedVhost(h.Vhosts, name); !ok {
			h.Vhosts[name] = HookURLs{}
		}
	}
}

// publishAuth adds the users of publish_auth.
func (f *File) publishAuth(d *conf.Directive) {
	users, enabled := make(map[string]forward.Secret), false
	for _, d := range d.Block {
		switch d.Name {
		case "enabled":
			enabled = on(d)
		case "method":
			f.Config.PublishAuthMethod = forward.AuthMethod(d.Args[0])
		case "user":
			users[d.Args[0]] = forward.Secret(d.Args[1])
		}
	}
	if !enabled {
		return
	}
	f.Users = users
	f.Config.PublishAuth = func(user string) (forward.Secret, bool) {
		password, ok := users[user]
		return password, ok
	}
}

func rtmpsFile(d *conf.Directive) *RTMPSFile {
	r, enabled := &RTMPSFile{}, false
	for _, d := range d.Block {
		switch d.Name {
		case "enabled":
			enabled = on(d)
		case "listen":
			r.Listen = append(r.Listen, addresses(d.Args)...)
		case "cert":
			r.CertFile, r.certFrom = d.Args[0], originOf(d)
		case "key":
			r.KeyFile, r.keyFrom = d.Args[0], originOf(d)
		}
	}
	if !enabled {
		return nil
	}
	return r
}

// originOf returns the origin of a value that is not in the file itself, else nil.
func originOf(d *conf.Directive) *string {
	from := d.Origin(0)
	if from == "" {
		return nil
	}
	from = fmt.Sprintf("%s: %s", d.ArgPos(0), from)
	return &from
}
