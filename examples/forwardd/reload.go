package main

import (
	"maps"
	"reflect"
	"slices"

	"github.com/rtmp-forward/forward/srs"
)

// reload reads the file again and changes what differs.
func (d *daemon) reload(listeners []listener) {
	conf, err := load(d.opts)
	if err == nil {
		conf.Inherit(d.conf.File)
		next := conf.Config
		next.Addr = d.first.Config.Addr // as Listen, which is named below
		err = d.srv.Reload(d.withTable(next))
	}
	if err != nil {
		d.log.Error("not reloaded, nothing has changed", "err", err)
		return
	}
	changed := changes(d.conf.File, conf.File)
	if d.http != nil && conf.HTTP != nil {
		if err := d.http.Reload(operatorOptions(conf.HTTP)); err != nil {
			d.log.Error("http not reloaded", "err", err)
		}
	}
	if conf.cert != nil {
		d.cert.Store(conf.cert)
	}
	if conf.web != nil {
		d.web.Store(conf.web)
	}
	d.reloadTeller(conf.Webhooks)
	d.conf = conf
	d.log.Info("reloaded", "changed", changed)
	if restart := needRestart(d.first.File, conf.File); len(restart) > 0 {
		d.log.Warn("needs a restart", "directives", restart)
	}
	d.warn()
	d.warnOpen(listeners)
}

// rtmps has the addresses and files of TLS.
func rtmps(f *srs.File) (listen []string, files [2]string) {
	if f.RTMPS == nil {
		return nil, files
	}
	return f.RTMPS.Listen, [2]string{f.RTMPS.CertFile, f.RTMPS.KeyFile}
}

// web is the http block, empty if there is none.
func web(f *srs.File) srs.HTTPFile {
	if f.HTTP == nil {
		return srs.HTTPFile{}
	}
	return *f.HTTP
}

// needRestart names the directives that differ from those in use and need a restart.
func needRestart(running, now *srs.File) (directives []string) {
	if !slices.Equal(running.Listen, now.Listen) {
		directives = append(directives, "listen")
	}
	if running.PID != now.PID {
		directives = append(directives, "pid")
	}
	if running.DestinationTable != now.DestinationTable {
		directives = append(directives, "destination_table")
	}
	was, _ := rtmps(running)
	if is, _ := rtmps(now); !slices.Equal(was, is) {
		directives = append(directives, "rtmps listen")
	}
	if !slices.Equal(web(running).Listen, web(now).Listen) {
		directives = append(directives, "http listen")
	}
	if running.HTTP != nil && now.HTTP != nil && (running.HTTP.TLS == nil) != (now.HTTP.TLS == nil) {
		directives = append(directives, "http cert")
	}
	return directives
}

// changes names the differences of two readings of the file that have taken effect.
func changes(old, now *srs.File) (changed []string) {
	note := func(name string, old, now any) {
		if !reflect.DeepEqual(old, now) {
			changed = append(changed, name)
		}
	}
	_, wasFiles := rtmps(old)
	_, files := rtmps(now)
	note("rtmps certificate", wasFiles, files)
	if old.HTTP != nil && now.HTTP != nil {
		note("http token", old.HTTP.Token, now.HTTP.Token)
		note("http host", old.HTTP.Hosts, now.HTTP.Hosts)
		note("http certificate", old.HTTP.TLS, now.HTTP.TLS)
	}
	note("webhooks", old.Webhooks, now.Webhooks)
	note("log_names", old.Config.LogNames, now.Config.LogNames)
	note("max_connections", old.Config.Limits, now.Config.Limits)
	note("publish_auth", [2]any{old.Config.PublishAuthMethod, old.Users}, [2]any{now.Config.PublishAuthMethod, now.Users})
	note("chunk_size", old.Config.ChunkSize, now.Config.ChunkSize)

	hooks := func(f *srs.File, vhost string) srs.HookURLs {
		if f.HTTPHooks == nil {
			return srs.HookURLs{}
		}
		return f.HTTPHooks.Vhosts[vhost]
	}
	names := maps.Clone(old.Config.Vhosts)
	maps.Copy(names, now.Config.Vhosts)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, before := old.Config.Vhosts[name]
		is, after := now.Config.Vhosts[name]
		switch {
		case !before:
			changed = append(changed, "vhost "+name+" is new")
		case !after:
			changed = append(changed, "vhost "+name+" is no longer served")
		case !reflect.DeepEqual(was, is) || !reflect.DeepEqual(hooks(old, name), hooks(now, name)):
			changed = append(changed, "vhost "+name)
		}
	}
	return changed
}
