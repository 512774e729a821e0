"""Published checkpoints, one family a file: read without unpickling, every key used or named, with a card of each file.

    collaborative_diffusion.load_collaborative(
        size: int = 256, paths: Mapping[str, Path] | None = None, device="cpu", dtype=torch.float32
    ) -> CollaborativeNetworks
        .autoencoder          encode / decode as methods.networks.autoencoder.Autoencoder, scale factor included
        .experts              {"text", "mask"}: Expert-like, `.bind(conditions, schedule)` -> a denoiser with `.encoded`
        .dynamic_diffusers    {"text", "mask"}: (x_t, t, encoded) -> (B, 1, h, w)
        .schedule             Schedule
        .latent_shape         (3, 64, 64)
        .image_size           256 or 512
        .cards                {file: card}

    stable_diffusion.load_stable_diffusion(
        path: Path | None = None, version: str = "v1-4", device="cpu", dtype=torch.float32
    ) -> StableDiffusion
        .autoencoder, .text_encoder, .tokenizer, .unet, .schedule, .latent_shape, .image_size, .card
        .expert("text" | "unconditional")    Expert-like, as above

    loading                   reading a .ckpt or .safetensors, prefixes, strictness, cards
    ldm                       latent diffusion's layers as diffusers builds them, and what methods see of them

`paths=None` takes the files that `concord weights fetch` has put in place (data.manifest.weight_file). Keys of `paths`
for Collaborative Diffusion: 'codiff' (which holds everything), 'text', 'mask', 'vae' (where it lacks a part) and
'tokenizer' (a folder). `path` for Stable Diffusion: a folder in diffusers' form, or one file.
"""
