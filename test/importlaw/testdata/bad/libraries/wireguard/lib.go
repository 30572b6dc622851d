package wireguard
