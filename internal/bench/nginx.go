//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Debian's paths of nginx and its RTMP module.
const (
	nginxPath   = "/usr/sbin/nginx"
	nginxModule = "/usr/lib/nginx/modules/ngx_rtmp_module.so"
)

// nginxCommand returns the command that runs nginx-rtmp with one worker on port. nginx
// pushes every stream to destinations. Its files are in dir.
func nginxCommand(dir string, port, chunkSize int, destinations []int) (*exec.Cmd, error) {
	for _, file := range []string{nginxPath, nginxModule} {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("install nginx and libnginx-mod-rtmp: %w", err)
		}
	}
	var push strings.Builder
	for _, d := range destinations {
		fmt.Fprintf(&push, "\t\t\tpush rtmp://127.0.0.1:%d/live;\n", d)
	}
	conf := filepath.Join(dir, "nginx.conf")
	err := os.WriteFile(conf, fmt.Appendf(nil, `load_module %s;
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid %s/nginx.pid;
error_log stderr crit;
events { worker_connections 32768; }
rtmp {
	access_log off;
	server {
		listen 127.0.0.1:%d;
		chunk_size %d;
		application live {
			live on;
%s		}
	}
}
`, nginxModule, dir, port, chunkSize, push.String()), 0o600)
	if err != nil {
		return nil, err
	}
	return exec.Command(nginxPath, "-p", dir, "-c", conf, "-e", "stderr"), nil
}
