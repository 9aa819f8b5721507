package forward_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/auth"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/resolve"
)

// No value of a host shows a secret, however it is printed.
func TestPublicValuesHoldNoSecretWhenPrinted(t *testing.T) {
	const u = "rtmp://u:" + secretscan.Canary + "@dest.example/live/" + secretscan.Canary + "?t=" + secretscan.Canary
	const backend = "http://u:" + secretscan.Canary + "@backend.example/?t=" + secretscan.Canary
	req := forward.Request{App: "live", Stream: secretscan.Canary, Param: "?t=" + secretscan.Canary, TcURL: "rtmp://h/live?t=" + secretscan.Canary, PageURL: secretscan.Canary}
	s := hosttest.NewServer(t, forward.Config{Resolver: forward.MustStatic("rtmp://dest/live/" + secretscan.Canary),
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("down") }})
	p, err := s.Publish(t.Context(), req)
	require.NoError(t, err)
	defer p.Close()
	src := p.Source()
	f := src.Forwarders()[0]
	for _, v := range append(valuesBeside(u, backend),
		forward.Secret(secretscan.Canary), forward.Destination{URL: u}, &forward.Destination{URL: u, StreamKey: secretscan.Canary, User: secretscan.Canary, Password: secretscan.Canary, TcURL: u},
		&forward.DestinationError{Op: "dial", Destination: forward.Destination{URL: u}, Err: errors.New("x")}, forward.DestinationError{Op: "dial", Destination: forward.Destination{URL: u}, Err: errors.New("x")},
		forward.RetryInfo{Request: &req, Err: &forward.DestinationError{Op: "dial", Destination: forward.Destination{URL: u}, Err: errors.New("x")}},
		req, &req, forward.Request{TcURL: u, PageURL: u}, &forward.Request{TcURL: u, PageURL: u},
		s, *s.Settings(), s.Settings(), p, src, f, f.Stats(), src.Stats(), s.Stats(), src.Request(), f.Destination(),
		forward.MustStatic(u), forward.Config{Resolver: forward.MustStatic(u)}, auth.Token{Secrets: []forward.Secret{secretscan.Canary}},
		&forward.StatusError{Code: "c", Description: "d"}, &forward.AddressError{},
	) {
		out := secretscan.Prints(v)
		if at := strings.Index(out, secretscan.Canary); at >= 0 {
			t.Errorf("%T: %s", v, out[max(at-200, 0):at+len(secretscan.Canary)])
		}
	}
}

// exportedTypes are all exported types of the package that have values. typesBeside has those
// of the other packages.
var exportedTypes = []reflect.Type{
	reflect.TypeFor[forward.AddressError](), reflect.TypeFor[forward.AuthMethod](), reflect.TypeFor[forward.Backoff](), reflect.TypeFor[forward.Config](),
	reflect.TypeFor[forward.Destination](), reflect.TypeFor[forward.DestinationError](),
	reflect.TypeFor[forward.Forwarder](), reflect.TypeFor[forward.ForwarderStats](), reflect.TypeFor[forward.Hooks](), reflect.TypeFor[forward.Limits](),
	reflect.TypeFor[forward.Message](), reflect.TypeFor[forward.Op](), reflect.TypeFor[forward.Profile](),
	reflect.TypeFor[forward.Request](), reflect.TypeFor[forward.Player](), reflect.TypeFor[forward.Publisher](), reflect.TypeFor[forward.Redirect](), reflect.TypeFor[forward.RetryInfo](),
	reflect.TypeFor[forward.Secret](), reflect.TypeFor[forward.Server](),
	reflect.TypeFor[forward.ServerStats](), reflect.TypeFor[forward.Source](), reflect.TypeFor[forward.SourceStats](), reflect.TypeFor[forward.State](),
	reflect.TypeFor[forward.StatusError](), reflect.TypeFor[forward.Subscription](), reflect.TypeFor[forward.Timestamps](),
	reflect.TypeFor[forward.UnsupportedCodecError](), reflect.TypeFor[forward.Vhost](),
	reflect.TypeFor[forward.Bucket](), reflect.TypeFor[forward.Standby](), reflect.TypeFor[forward.CallStats](), reflect.TypeFor[forward.Durations](), reflect.TypeFor[forward.Event](), reflect.TypeFor[forward.EventKind](), reflect.TypeFor[forward.Reason](), reflect.TypeFor[forward.Format](), reflect.TypeFor[forward.Totals](),
}

// noSecret lists the texts without secrets, by type and field: texts of the library itself,
// ids, codecs, addresses to listen on, paths of files, and the texts of a StatusError, which
// are for the client.
var noSecret = map[string]bool{
	"AddressError.reason": true, "Config.Addr": true, "Request.ServerID": true, "Request.ClientID": true, "Request.PublishID": true, "Event.PublishID": true,
	"DestinationError.Op": true, "DestinationError.Code": true, "ForwarderStats.Warning": true,
	"Report.Destination": true, "Report.Verdict": true, "Report.Warnings": true, "Step.Op": true, "Step.Text": true, "Step.Said": true,
	"RTMPSFile.CertFile": true, "RTMPSFile.KeyFile": true, "RTMPSFile.Listen": true, "Route.Vhost": true, "Route.App": true,
	"SourceStats.VideoCodec": true, "SourceStats.AudioCodec": true, "Format.Profile": true,
	"Event.Kind": true, "Event.Stream": true, "Event.StreamID": true, "Event.Destination": true, "Event.DestinationID": true, "Event.ClientID": true,
	"Event.Addr": true, "Event.State": true, "Event.Reason": true, "Event.Cause": true, "Event.VideoCodec": true, "Event.AudioCodec": true,
	"StatusError.Code": true, "StatusError.Description": true,
	"Entry.Name": true, "Entry.By": true, "FileError.Path": true,
	"Token.Purpose": true, "Token.Param": true, "UnsupportedCodecError.Codec": true, "UnsupportedCodecError.platform": true,
	"Request.App": true, "Request.Vhost": true,
	"shown.text": true,
}

// rootPath is the path of this package.
var rootPath = reflect.TypeFor[forward.Server]().PkgPath()

// packagesBeside returns the directories of the packages of typesBeside.
func packagesBeside() (dirs []string) {
	for _, typ := range typesBeside {
		if dir := strings.TrimPrefix(typ.PkgPath(), rootPath+"/"); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// declared returns the exported types of this package and of the others, except interfaces and
// functions.
func declared(t *testing.T) (names []string) {
	paths, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, dir := range packagesBeside() {
		more, err := filepath.Glob(dir + "/*.go")
		require.NoError(t, err)
		require.NotEmpty(t, more, dir)
		paths = append(paths, more...)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		require.NoError(t, err)
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range g.Specs {
				spec, ok := s.(*ast.TypeSpec)
				if !ok || !spec.Name.IsExported() || spec.Assign.IsValid() { // an alias is another name
					continue
				}
				switch spec.Type.(type) {
				case *ast.InterfaceType, *ast.FuncType:
				default:
					names = append(names, file.Name.Name+"."+spec.Name.Name)
				}
			}
		}
	}
	return names
}

// plant puts a text into all strings that can be reached from v, in exported and other fields,
// except noSecret.
func plant(v reflect.Value, text string, depth int) {
	if depth > 8 {
		return
	}
	switch v.Kind() {
	case reflect.String:
		if v.Type() == reflect.TypeFor[string]() || v.Type() == reflect.TypeFor[forward.Secret]() {
			v.SetString(text)
		}
	case reflect.Struct:
		if path := v.Type().PkgPath(); path != rootPath && !slices.Contains(packagesBeside(), strings.TrimPrefix(path, rootPath+"/")) {
			return // a type from outside the module, such as a lock
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); !noSecret[v.Type().Name()+"."+f.Name] {
				plant(reflect.NewAt(f.Type, unsafe.Pointer(v.Field(i).UnsafeAddr())).Elem(), text, depth+1)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		plant(v.Index(0), text, depth+1)
	case reflect.Map:
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		if k.Type() == reflect.TypeFor[netip.Addr]() {
			return
		}
		plant(e, text, depth+1)
		if k.Kind() == reflect.String {
			k.SetString("vhost") // names of vhosts and users are not secret
		} else {
			plant(k, text, depth+1)
		}
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(k, e)
	case reflect.Pointer:
		if v.Type() == reflect.TypeFor[*forward.Forwarder]() || v.Type() == reflect.TypeFor[*forward.Source]() {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		plant(v.Elem(), text, depth+1)
	case reflect.Interface:
		for _, to := range []reflect.Value{
			reflect.ValueOf(&resolve.HTTP{URL: text, Secret: forward.Secret(text)}),
			reflect.ValueOf(&forward.DestinationError{Destination: forward.Destination{URL: text}, Err: errors.New("x")}),
		} {
			if to.Type().AssignableTo(v.Type()) && v.NumMethod() > 0 {
				v.Set(to)
				return
			}
		}
	}
}

// Every exported type is printed by value and by pointer, as an element, a field, an embedded
// field and a key, in all ways of fmt, slog and encoding/json.
func TestNoExportedTypePrintsASecret(t *testing.T) {
	names := make(map[string]bool)
	all := slices.Concat(exportedTypes, typesBeside)
	for _, typ := range all {
		names[typ.String()] = true
	}
	for _, name := range declared(t) {
		require.True(t, names[name], "%s is not in exportedTypes", name)
	}
	// The Forwarder stays in its dial, so the values that are copied here do not change.
	dials := make(chan struct{})
	s := hosttest.NewServer(t, forward.Config{
		Resolver: forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
			return []forward.Destination{{URL: "rtmp://dest/live/" + secretscan.Canary, DialTimeout: time.Hour}}, nil
		}),
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			close(dials)
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	p := hosttest.Publish(t, s, "live", secretscan.Canary)
	<-dials
	live := map[string]any{
		"Server": s, "Source": p.Source(), "Publisher": p, "Forwarder": p.Source().Forwarders()[0],
		"Subscription": p.Source().Subscribe(t.Context()),
	}
	for _, typ := range all {
		for _, text := range []string{
			secretscan.Canary, "rtmp://u:" + secretscan.Canary + "@dest.example/live/" + secretscan.Canary + "?t=" + secretscan.Canary, "http://u:" + secretscan.Canary + "@b.example/" + secretscan.Canary + "?t=" + secretscan.Canary,
		} {
			ptr := reflect.New(typ)
			if v, ok := live[typ.Name()]; ok && typ.PkgPath() == rootPath {
				ptr = reflect.ValueOf(v)
			} else {
				plant(ptr.Elem(), text, 0)
			}
			for how, v := range forms(ptr) {
				out := secretscan.Prints(v)
				for _, enc := range []string{secretscan.Canary, fmt.Sprintf("%x", secretscan.Canary), fmt.Sprintf("%X", secretscan.Canary)} {
					if at := strings.Index(out, enc); at >= 0 {
						t.Errorf("%s, %s: %s", typ.Name(), how, out[max(at-200, 0):at+len(enc)])
					}
				}
			}
		}
	}
}

// forms returns values that contain the value to which ptr points.
func forms(ptr reflect.Value) map[string]any {
	v, typ := ptr.Elem(), ptr.Type().Elem()
	out := map[string]any{"pointer": ptr.Interface(), "value": v.Interface()}
	for how, e := range map[string]reflect.Value{"pointer": ptr, "value": v} {
		slice := reflect.MakeSlice(reflect.SliceOf(e.Type()), 1, 1)
		slice.Index(0).Set(e)
		out["slice of "+how] = slice.Interface()
		array := reflect.New(reflect.ArrayOf(1, e.Type())).Elem()
		array.Index(0).Set(e)
		out["array of "+how] = array.Interface()
		m := reflect.MakeMap(reflect.MapOf(reflect.TypeFor[string](), e.Type()))
		m.SetMapIndex(reflect.ValueOf("k"), e)
		out["map of "+how] = m.Interface()
		holder := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "V", Type: e.Type()}, {Name: "Any", Type: reflect.TypeFor[any]()}}))
		holder.Elem().Field(0).Set(e)
		holder.Elem().Field(1).Set(e)
		out["field "+how] = holder.Elem().Interface()
		out["pointer to field "+how] = holder.Interface()
		if e.Comparable() && typ != reflect.TypeFor[forward.Secret]() { // for which see its comment
			keys := reflect.MakeMap(reflect.MapOf(e.Type(), reflect.TypeFor[int]()))
			keys.SetMapIndex(e, reflect.ValueOf(1))
			out["key "+how] = keys.Interface()
		}
	}
	return out
}

// fmt masks the keys of a map; encoding/json writes those of any type of string
// as they are, so no type of the package has such a map.
func TestSecretAsAKey(t *testing.T) {
	m := map[forward.Secret]int{secretscan.Canary: 1}
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", m, m, m), secretscan.Canary)
	text, err := json.Marshal(m)
	require.NoError(t, err)
	require.Contains(t, string(text), secretscan.Canary, "encoding/json has changed: say so at Secret")
	seen := make(map[reflect.Type]bool)
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		if seen[typ] || typ == reflect.TypeFor[tls.Config]() {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Map:
			require.NotEqual(t, reflect.TypeFor[forward.Secret](), typ.Key(), typ)
			walk(typ.Key())
			walk(typ.Elem())
		case reflect.Slice, reflect.Array, reflect.Pointer:
			walk(typ.Elem())
		case reflect.Struct:
			for i := range typ.NumField() {
				walk(typ.Field(i).Type)
			}
		}
	}
	for _, typ := range slices.Concat(exportedTypes, typesBeside) {
		walk(typ)
	}
}
