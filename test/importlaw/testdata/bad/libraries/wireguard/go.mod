module golang.zx2c4.com/wireguard

go 1.26.0
